//! `spin:redis` over a real Redis, as Spin's host serves it: each open is a connection of its own, nothing reconnects,
//! nothing times out, replies are flattened. Must never be more forgiving than that.

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value,
};
use wasmtime::component::{Accessor, Resource};

use super::host::bindings::spin::redis::redis as wit;
use super::host::{Spin, State};

/// One open connection; clones of it share the socket, so that concurrent commands are pipelined.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Connection(MultiplexedConnection);

type Outcome<T> = wasmtime::Result<Result<T, wit::Error>>;

async fn connect(address: &str) -> Result<Connection, wit::Error> {
    // The crate's own defaults would give up after half a second, which Spin's older release of it does not.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = Client::open(address).map_err(|_| wit::Error::InvalidAddress)?;
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map(Connection)
        .map_err(|error| other(&error))
}

/// Runs `command` on a clone of the connection, so that the store is free while the reply is awaited.
async fn query<T: Send, R: FromRedisValue>(
    accessor: &Accessor<T, Spin>,
    connection: &Resource<Connection>,
    command: Cmd,
) -> Outcome<R> {
    let mut connection =
        accessor.with(|mut store| store.get().table.get(connection).map(|open| open.0.clone()))?;
    Ok(command.query_async(&mut connection).await.map_err(|error| other(&error)))
}

fn command<A: redis::ToRedisArgs>(name: &str, arguments: &[A]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command
}

fn other(error: &RedisError) -> wit::Error {
    wit::Error::Other(text(error))
}

/// Error texts as the release of the redis crate inside Spin (0.32) words them: guests can tell NOSCRIPT and MOVED by
/// the text alone.
fn text(error: &RedisError) -> String {
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    if let ErrorKind::Server(kind) = error.kind() {
        let suffixed = matches!(
            kind,
            ServerErrorKind::ExecAbort | ServerErrorKind::BusyLoading | ServerErrorKind::NoScript
        );
        let suffix = if suffixed { "Error" } else { "" };
        return format!("An error was signalled by the server - {kind:?}{suffix}{detail}");
    }
    match error.code() {
        Some(code) => format!("{code}{detail}"),
        None => error.to_string(),
    }
}

/// The reply to a free-form command: arrays become one flat list, in which an empty array leaves nothing.
struct Flat(Vec<wit::RedisResult>);

impl FromRedisValue for Flat {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        let mut list = Vec::new();
        flatten(value, &mut list)?;
        Ok(Self(list))
    }
}

fn flatten(value: Value, list: &mut Vec<wit::RedisResult>) -> Result<(), redis::ParsingError> {
    let unsupported = |what: &str| {
        Err(format!("Could not convert Redis response - TypeError: Redis {what} not supported").into())
    };
    list.push(match value {
        Value::Nil => wit::RedisResult::Nil,
        Value::Int(number) => wit::RedisResult::Int64(number),
        Value::BulkString(bytes) => wit::RedisResult::Binary(bytes),
        Value::SimpleString(text) => wit::RedisResult::Status(text),
        Value::Okay => wit::RedisResult::Status("OK".to_owned()),
        Value::Double(number) => wit::RedisResult::Binary(number.to_string().into_bytes()),
        Value::Boolean(flag) => wit::RedisResult::Int64(i64::from(flag)),
        Value::BigNumber(digits) => wit::RedisResult::Binary(digits),
        Value::Array(values) | Value::Set(values) => {
            return values.into_iter().try_for_each(|value| flatten(value, list));
        }
        Value::Map(_) => return unsupported("Map type is"),
        Value::Attribute { .. } => return unsupported("Attribute type is"),
        Value::VerbatimString { .. } => return unsupported("string with format attribute is"),
        Value::Push { .. } => return unsupported("Pub/Sub types are"),
        Value::ServerError(error) => return Err(format!("Server error - ResponseError: {error:?}").into()),
        _ => return unsupported("type is"),
    });
    Ok(())
}

impl wit::Host for State {}

impl wit::HostConnection for State {
    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl<T: Send> wit::HostConnectionWithStore<T> for Spin {
    async fn open(accessor: &Accessor<T, Self>, address: String) -> Outcome<Resource<Connection>> {
        let component = accessor.with(|mut store| std::sync::Arc::clone(&store.get().component));
        match component.allowed_hosts.check(&address, "redis") {
            Ok(true) => {}
            Ok(false) => return Ok(Err(wit::Error::InvalidAddress)),
            Err(malformed) => return Ok(Err(wit::Error::Other(malformed.to_owned()))),
        }
        match connect(&address).await {
            Ok(open) => Ok(Ok(accessor.with(|mut store| store.get().table.push(open))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn publish(
        a: &Accessor<T, Self>,
        c: Resource<Connection>,
        channel: String,
        payload: Vec<u8>,
    ) -> Outcome<()> {
        query(a, &c, command("PUBLISH", &[channel.into_bytes(), payload])).await
    }

    async fn get(a: &Accessor<T, Self>, c: Resource<Connection>, key: String) -> Outcome<Option<Vec<u8>>> {
        query(a, &c, command("GET", &[key])).await
    }

    async fn set(a: &Accessor<T, Self>, c: Resource<Connection>, key: String, value: Vec<u8>) -> Outcome<()> {
        query(a, &c, command("SET", &[key.into_bytes(), value])).await
    }

    async fn incr(a: &Accessor<T, Self>, c: Resource<Connection>, key: String) -> Outcome<i64> {
        query(a, &c, command("INCRBY", &[key, "1".to_owned()])).await
    }

    async fn del(a: &Accessor<T, Self>, c: Resource<Connection>, keys: Vec<String>) -> Outcome<u32> {
        query(a, &c, command("DEL", &keys)).await
    }

    async fn sadd(
        a: &Accessor<T, Self>,
        c: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> Outcome<u32> {
        query(a, &c, command("SADD", &[vec![key], values].concat())).await
    }

    async fn smembers(a: &Accessor<T, Self>, c: Resource<Connection>, key: String) -> Outcome<Vec<String>> {
        query(a, &c, command("SMEMBERS", &[key])).await
    }

    async fn srem(
        a: &Accessor<T, Self>,
        c: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> Outcome<u32> {
        query(a, &c, command("SREM", &[vec![key], values].concat())).await
    }

    async fn execute(
        a: &Accessor<T, Self>,
        c: Resource<Connection>,
        name: String,
        arguments: Vec<wit::RedisParameter>,
    ) -> Outcome<Vec<wit::RedisResult>> {
        let mut command = redis::cmd(&name);
        for argument in arguments {
            match argument {
                wit::RedisParameter::Int64(number) => command.arg(number),
                wit::RedisParameter::Binary(bytes) => command.arg(bytes),
            };
        }
        Ok(query::<T, Flat>(a, &c, command).await?.map(|flat| flat.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(wire: &str) -> redis::RedisResult<Value> {
        redis::parse_redis_value(wire.as_bytes()).and_then(Value::extract_error)
    }

    #[test]
    fn nested_arrays_are_flattened_and_empty_ones_vanish() {
        let mut list = Vec::new();
        flatten(reply("*3\r\n:1\r\n*3\r\n+OK\r\n*0\r\n$1\r\nx\r\n$-1\r\n").unwrap(), &mut list).unwrap();
        let shown = format!("{list:?}");
        assert_eq!(list.len(), 4, "{shown}");
        assert!(matches!(list[0], wit::RedisResult::Int64(1)), "{shown}");
        assert!(matches!(&list[1], wit::RedisResult::Status(text) if text == "OK"), "{shown}");
        assert!(matches!(&list[2], wit::RedisResult::Binary(bytes) if bytes == b"x"), "{shown}");
        assert!(matches!(list[3], wit::RedisResult::Nil), "{shown}");
        assert!(flatten(Value::Map(Vec::new()), &mut list).is_err());
    }

    #[test]
    fn errors_are_worded_as_by_spin() {
        let text = |wire| text(&reply(wire).unwrap_err());
        assert_eq!(
            text("-NOSCRIPT No matching script.\r\n"),
            "An error was signalled by the server - NoScriptError: No matching script."
        );
        assert_eq!(text("-MOVED 15495 h:1\r\n"), "An error was signalled by the server - Moved: 15495 h:1");
        assert_eq!(text("-WRONGTYPE Operation\r\n"), "WRONGTYPE: Operation");
    }
}
