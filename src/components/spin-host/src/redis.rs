//! Redis through Spin: one connection an instance, opened when it is needed and given up when it fails.
//!
//! Spin sets no limits and never reconnects, so every exchange is raced with a timer. Commands of several requests
//! share the connection, which pipelines them; a request that finds none opens one. What its limit cut short goes on
//! as a task of that request: no other request waits for it.
//!
//! Spin collects a reply before it hands it over, however long that is. Here a reply that is longer than anything that
//! Paddock stores is not used.

use std::{
    cell::RefCell,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use paddock::store::{
    StoreError, StoreResult, TimeLimit,
    redis::{RedisCommands, RedisValue, error_text, replicas_wait},
};
use spin_sdk::redis::{Connection, Error, RedisParameter, RedisResult};

use crate::{background, within::within};

/// Limit for opening a connection, which may outlive the command that wanted it.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Connections for writes that wait for replicas, kept when they are idle.
const IDLE_LIMIT: usize = 4;

/// The connection of this instance. Clones share it.
#[derive(Clone)]
pub(crate) struct SpinRedis(Rc<SpinRedisState>);

struct SpinRedisState {
    address: Option<String>,
    /// The longest reply that is used, in bytes.
    reply_limit: u64,
    connection: RefCell<Option<Rc<Connection>>>,
    /// Connections on which nobody waits now for replicas, which would hold up what others send.
    waiting: RefCell<Vec<Rc<Connection>>>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Connection, Error>>>>;

impl SpinRedis {
    /// No address means no Redis: every command says so.
    pub(crate) fn new(address: Option<String>, reply_limit: u64) -> Self {
        Self(Rc::new(SpinRedisState {
            address,
            reply_limit,
            connection: RefCell::default(),
            waiting: RefCell::default(),
        }))
    }

    fn opening(&self) -> StoreResult<Opening> {
        let address = self.0.address.clone().ok_or(StoreError::Absent)?;
        Ok(Box::pin(async move { Connection::open(address).await }))
    }

    /// Keeps a connection for the commands that come.
    fn keep(&self, connection: Connection) -> Rc<Connection> {
        let connection = Rc::new(connection);
        self.0.connection.replace(Some(connection.clone()));
        connection
    }

    /// A new connection, or none when the limit passed: then it is still made, for the commands that come later.
    async fn open(&self, limit: &Limit) -> StoreResult<Rc<Connection>> {
        let mut opening = self.opening()?;
        if let Some(opened) = within(limit.left(), &mut opening).await {
            return Ok(self.keep(opened.map_err(fault)?));
        }
        let redis = self.clone();
        background::spawn(Box::pin(async move {
            if let Some(Ok(opened)) = within(CONNECT_LIMIT, &mut opening).await {
                redis.keep(opened);
            }
        }));
        Err(limit.passed())
    }

    /// Gives up a connection that failed, unless another has taken its place.
    fn forget(&self, failed: &Rc<Connection>) {
        let mut connection = self.0.connection.borrow_mut();
        if connection.as_ref().is_some_and(|known| Rc::ptr_eq(known, failed)) {
            *connection = None;
        }
    }

    /// An exchange on a connection; one that fails is given up. `None` when the limit passed.
    async fn exchange(
        &self,
        connection: &Rc<Connection>,
        command: &'static str,
        arguments: &[&[u8]],
        limit: Duration,
    ) -> Option<StoreResult<Vec<RedisValue>>> {
        let mut exchange = pin!(execute(connection, command, arguments));
        let reply = within(limit, &mut exchange).await?.map_err(fault);
        if matches!(reply, Err(StoreError::Unavailable(_))) {
            self.forget(connection);
        }
        Some(reply.and_then(|values| {
            if values.iter().map(size).sum::<u64>() > self.0.reply_limit {
                return Err(StoreError::UnexpectedReply(command));
            }
            Ok(values.into_iter().map(value).collect())
        }))
    }
}

async fn execute(
    connection: &Connection,
    command: &str,
    arguments: &[&[u8]],
) -> Result<Vec<RedisResult>, Error> {
    let arguments = arguments.iter().map(|argument| RedisParameter::Binary(argument.to_vec()));
    connection.execute(command, arguments).await
}

/// What is left of a limit.
struct Limit {
    began: std::time::Instant,
    limit: TimeLimit,
}

impl Limit {
    fn new(limit: TimeLimit) -> Self {
        Self { began: std::time::Instant::now(), limit }
    }

    fn left(&self) -> Duration {
        self.limit.time.saturating_sub(self.began.elapsed())
    }

    fn passed(&self) -> StoreError {
        self.limit.passed()
    }
}

impl RedisCommands for SpinRedis {
    fn is_configured(&self) -> bool {
        self.0.address.is_some()
    }

    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: TimeLimit,
    ) -> StoreResult<Vec<RedisValue>> {
        let limit = Limit::new(limit);
        let known = self.0.connection.borrow().clone();
        if let Some(known) = known {
            match self.exchange(&known, command, arguments, limit.left()).await {
                None => {
                    // The peer may be gone for good; the next command tries a new connection.
                    if limit.limit.is_whole {
                        self.forget(&known);
                    }
                    return Err(limit.passed());
                }
                // It may have died while it lay idle. Every command is harmless when it is sent twice.
                Some(Err(StoreError::Unavailable(_))) => {}
                Some(reply) => return reply,
            }
        }
        let fresh = self.open(&limit).await?;
        self.exchange(&fresh, command, arguments, limit.left()).await.unwrap_or_else(|| Err(limit.passed()))
    }

    async fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        replicas: u32,
        limit: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        let limit = Limit::new(limit);
        let idle = self.0.waiting.borrow_mut().pop();
        let idle_reply = match &idle {
            Some(idle) => self.exchange(idle, command, arguments, limit.left()).await,
            None => None,
        };
        let (connection, reply) = match (idle, idle_reply) {
            (Some(idle), Some(Ok(reply))) => (idle, reply),
            (Some(_), None) => return Err(limit.passed()),
            (Some(_), Some(Err(error))) if !matches!(error, StoreError::Unavailable(_)) => return Err(error),
            _ => {
                let opened = within(limit.left(), &mut self.opening()?).await;
                let opened = Rc::new(opened.ok_or_else(|| limit.passed())?.map_err(fault)?);
                let reply = self.exchange(&opened, command, arguments, limit.left()).await;
                (opened, reply.unwrap_or_else(|| Err(limit.passed()))?)
            }
        };
        // Only once the write is done: sent together, one could overtake the other here.
        let time = replicas_wait(limit.left()).as_millis().max(1);
        let (replicas, time) = (replicas.to_string(), time.to_string());
        let wait: [&[u8]; 2] = [replicas.as_bytes(), time.as_bytes()];
        let waited = self.exchange(&connection, "WAIT", &wait, limit.left()).await;
        let waited = waited.unwrap_or_else(|| Err(limit.passed()))?;
        let Some(RedisValue::Integer(reached)) = waited.first() else {
            return Err(StoreError::UnexpectedReply("WAIT"));
        };
        let mut idle = self.0.waiting.borrow_mut();
        if idle.len() < IDLE_LIMIT {
            idle.push(connection);
        }
        Ok((reply, u32::try_from(*reached).unwrap_or_default()))
    }
}

fn fault(error: Error) -> StoreError {
    match error {
        Error::InvalidAddress => {
            StoreError::Unavailable("the address is invalid, or spin.toml does not allow it".to_owned())
        }
        Error::TooManyConnections => StoreError::Unavailable("too many connections".to_owned()),
        Error::TypeError => StoreError::Refused("the reply has another type".to_owned()),
        Error::Other(text) => error_text(text),
    }
}

/// The bytes of a value.
fn size(result: &RedisResult) -> u64 {
    match result {
        RedisResult::Nil | RedisResult::Int64(_) => 0,
        RedisResult::Status(text) => text.len() as u64,
        RedisResult::Binary(bytes) => bytes.len() as u64,
    }
}

fn value(result: RedisResult) -> RedisValue {
    match result {
        RedisResult::Nil => RedisValue::Nil,
        RedisResult::Status(text) => RedisValue::Status(text),
        RedisResult::Int64(number) => RedisValue::Integer(number),
        RedisResult::Binary(bytes) => RedisValue::Bytes(bytes),
    }
}
