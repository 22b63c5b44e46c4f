//! Redis through Spin: one connection an instance, opened when it is needed and given up when it fails.
//!
//! Spin sets no limits and never reconnects, so every exchange is raced with a timer. Commands of several requests
//! share the connection, which pipelines them; a request that finds none opens one.

use std::{cell::RefCell, rc::Rc, time::Duration};

use futures::future::{Either, select};
use paddock::store::{
    StoreError, StoreResult,
    redis::{RedisCommands, RedisValue},
};
use spin_sdk::{
    redis::{Connection, Error, RedisParameter, RedisResult},
    time::sleep,
};

/// The connection of this instance. Clones share it.
#[derive(Clone)]
pub(crate) struct SpinRedis(Rc<Shared>);

struct Shared {
    address: Option<String>,
    connection: RefCell<Option<Rc<Connection>>>,
}

impl SpinRedis {
    /// No address means no Redis: every command says so.
    pub(crate) fn new(address: Option<String>) -> Self {
        Self(Rc::new(Shared { address, connection: RefCell::new(None) }))
    }

    fn known(&self) -> Option<Rc<Connection>> {
        self.0.connection.borrow().clone()
    }

    async fn open(&self) -> Result<Rc<Connection>, Error> {
        let address = self.0.address.as_deref().unwrap_or_default();
        let connection = Rc::new(Connection::open(address).await?);
        self.0.connection.replace(Some(connection.clone()));
        Ok(connection)
    }

    /// Gives up a connection that failed, unless another has taken its place.
    fn forget(&self, failed: &Rc<Connection>) {
        let mut connection = self.0.connection.borrow_mut();
        if connection.as_ref().is_some_and(|known| Rc::ptr_eq(known, failed)) {
            *connection = None;
        }
    }

    async fn send(&self, command: &str, arguments: &[&[u8]]) -> Result<Vec<RedisResult>, Error> {
        if let Some(known) = self.known() {
            match execute(&known, command, arguments).await {
                // It may have died while it lay idle. Every command is harmless when it is sent twice.
                Err(Error::Other(_)) => self.forget(&known),
                result => return result,
            }
        }
        let fresh = self.open().await?;
        execute(&fresh, command, arguments).await.inspect_err(|_| self.forget(&fresh))
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

impl RedisCommands for SpinRedis {
    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: Duration,
    ) -> StoreResult<Vec<RedisValue>> {
        if self.0.address.is_none() {
            return Err(StoreError::Absent);
        }
        let reply = {
            let exchange = Box::pin(self.send(command, arguments));
            match select(exchange, Box::pin(sleep(limit))).await {
                Either::Left((reply, _)) => Some(reply),
                Either::Right(_) => None,
            }
        };
        let Some(reply) = reply else {
            // The peer may be gone for good; the next command tries a new connection.
            self.0.connection.replace(None);
            return Err(StoreError::TimedOut);
        };
        let values = reply.map_err(|error| StoreError::Unavailable(describe(error)))?;
        Ok(values.into_iter().map(value).collect())
    }
}

fn describe(error: Error) -> String {
    match error {
        Error::InvalidAddress => "the address is invalid, or spin.toml does not allow it".to_owned(),
        Error::TooManyConnections => "too many connections".to_owned(),
        Error::TypeError => "the reply has another type".to_owned(),
        Error::Other(text) => text,
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
