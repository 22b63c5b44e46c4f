//! Checks of every script: it is Lua 5.1, which Redis runs, and reads no more keys and arguments than the store sends.

use crate::fleet::Scope;
use std::{fs, path::Path, sync::Mutex, time::Duration};

use luaparse_rs::{
    Lua51, Parser,
    ast::expr::{Expr, ExprKind},
};

use super::*;
use crate::{
    api::auth::CallerId,
    cache::{CacheKey, Delivery, Entry},
    fleet::{
        HostStats, Inventory,
        snapshot::{Claim, Flow, Lease, SlotRequest},
    },
    session::{Dialect, SessionHead, SessionId, SessionKey, Span, Turn},
    store::{
        FleetState as _, FlightBoard as _, FlightEnd, FlightKey, InventoryStore as _, ResponseCache as _,
        Sessions as _, Store as _, StoreResult, StoreTimeouts, TimeLimit,
        redis::{RedisCommands, RedisStore, RedisValue},
    },
};

/// The index in an expression that reads `table` at a constant number.
fn slot(expression: &Expr, table: &str) -> Option<usize> {
    let ExprKind::IndexAccess(access) = &expression.kind else { return None };
    match (&access.base.kind, &access.index.kind) {
        (ExprKind::Identifier(name), ExprKind::Number(number)) if name.name == table => {
            number.raw.parse().ok()
        }
        _ => None,
    }
}

/// The faults of a script that is sent with so many keys and arguments. Only indices that are numbers are checked.
fn faults(script: &str, keys: usize, arguments: usize) -> Vec<String> {
    let parsed = Parser::<Lua51>::new(script).map_err(|error| format!("{error:?}"));
    let parsed = parsed.and_then(|parser| parser.parse().map_err(|error| format!("{error:?}")));
    let script = match parsed {
        Ok(script) => script,
        Err(error) => return vec![error],
    };
    let mut faults = Vec::new();
    script.for_each_expr(|expression| {
        for (table, sent) in [("KEYS", keys), ("ARGV", arguments)] {
            let slot = slot(expression, table).filter(|slot| !(1..=sent).contains(slot));
            faults.extend(slot.map(|slot| format!("reads {table}[{slot}] of {sent}")));
        }
    });
    faults
}

/// The faults of the script in the arguments of an `EVAL`.
pub(crate) fn faults_of_eval(arguments: &[Vec<u8>]) -> Vec<String> {
    let text = |slot: usize| std::str::from_utf8(&arguments[slot]).unwrap();
    let keys = text(1).parse().unwrap();
    faults(text(0), keys, arguments.len() - 2 - keys)
}

/// Records the arguments of every `EVAL`, and replies nothing.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Vec<Vec<u8>>>>);

impl RedisCommands for &Recorder {
    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        _: TimeLimit,
    ) -> StoreResult<Vec<RedisValue>> {
        if command == "EVAL" {
            self.0.lock().unwrap().push(arguments.iter().map(|argument| argument.to_vec()).collect());
        }
        let bytes = |text: &str| RedisValue::Bytes(text.as_bytes().to_vec());
        let makes_room = |script: &[u8]| String::from_utf8_lossy(script).contains("local gone = {}\nwhile");
        Ok(match command {
            "EVAL" if arguments.first().is_some_and(|script| makes_room(script)) => {
                vec![bytes("0"), bytes("1.1")]
            }
            "INFO" => vec![bytes("maxmemory:1048576")],
            "HMGET" if arguments.last() == Some(&b"next".as_slice()) => {
                vec![bytes("1"), bytes("1 0 {}"), bytes("1")]
            }
            "PTTL" | "HSTRLEN" => vec![RedisValue::Integer(1)],
            _ => Vec::new(),
        })
    }

    async fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        _: u32,
        limit: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        Ok((self.execute(command, arguments, limit).await?, 0))
    }
}

/// Calls each operation that uses a script once, with as few arguments as possible. Results are ignored.
async fn run_all(store: &RedisStore<&Recorder>) {
    let second = Duration::from_secs(1);
    let lease =
        Lease { host: "h".into(), lane: "l".into(), id: "1".into(), began: second, cold: false, trial: None };
    let slot = SlotRequest { host: "h".into(), limit: 1, cold: true, trial: Some(Scope::Host) };
    let claim = Claim {
        id: "1",
        lane: "l",
        slots: vec![slot],
        flow: Flow { caller: "c", session: "s" },
        is_retry: true,
        reason: "",
    };
    drop(store.snapshot().await);
    drop(store.claim(&claim).await);
    drop(store.renew(&lease).await);
    drop(store.leave("1").await);
    drop(store.update("h", (&HostStats::default(), second), None, |_, _| {}).await);
    drop(store.put_inventory("h", &Inventory::default()).await);

    let scope = CallerId::public();
    let flight = FlightKey { key: CacheKey::of_repetition("/chat", &scope, b"k"), form: Delivery::Stream };
    drop(store.answer_or_lead(&flight, "1", None).await);
    drop(store.publish(&flight, "1", 0, 0, &[]).await);
    drop(store.end_flight(&flight, "1", 0, &[], &FlightEnd::Landed).await);
    drop(store.follow(&flight, "1", "2", 0).await);
    drop(store.epochs("m").await);
    drop(store.purge(None).await);
    drop(store.put_answer(&flight.key, &Entry::new(Delivery::Whole, "", "a".into()), second).await);

    let session = SessionKey::of(&scope, &SessionId::parse("s").unwrap());
    let (id, system) = ("1".to_owned(), Some("s".to_owned()));
    let turn = Turn { id, dialect: Dialect::Ollama, system, messages: Vec::new(), prompt: None };
    drop(store.session(&session, Span::ALL, second).await);
    drop(store.create_session(&session, &SessionHead::default(), second).await);
    drop(store.append_turn(&session, &turn, second, 1).await);
    drop(store.delete_session(&session).await);
    drop(store.ping().await);
    drop(store.share(&session).await);
}

/// The arguments of every `EVAL` of the store.
async fn sent() -> Vec<Vec<Vec<u8>>> {
    let second = Duration::from_secs(1);
    let recorder = Recorder::default();
    run_all(&RedisStore::new(&recorder, "p", StoreTimeouts { ask: second, keep: second })).await;
    recorder.0.into_inner().unwrap()
}

#[tokio::test]
async fn every_script_is_lua_5_1_and_reads_no_more_than_it_is_sent() {
    let sent = sent().await;
    assert_eq!(sent.len(), 21);
    for arguments in sent {
        let faults = faults_of_eval(&arguments);
        assert!(faults.is_empty(), "{faults:?} in {}", String::from_utf8_lossy(&arguments[0]));
    }
}

#[tokio::test]
async fn every_file_of_a_script_is_lua_5_1_and_its_code_is_sent() {
    let sent = sent().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis/scripts");
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(faults(&text, usize::MAX, usize::MAX), [""; 0], "{}", path.display());
        let lines =
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("--"));
        let code: String = lines.flat_map(|line| [line, "\n"]).collect();
        let is_sent = sent.iter().any(|arguments| String::from_utf8_lossy(&arguments[0]).contains(&code));
        assert!(is_sent, "{}", path.display());
    }
}

#[test]
fn a_broken_script_and_one_that_reads_too_much_are_found() {
    for broken in [
        "if KEYS[1] then return 1",
        "return 1 end",
        "if ARGV[1] != 'a' then return 1 end",
        "local text = 'open",
        "return redis.call('GET', KEYS[1]",
        "goto done ::done::",
        "return 7 // 2",
        "return 1 local late = 2",
    ] {
        assert_eq!(faults(broken, 1, 1).len(), 1, "{broken}");
    }
    let script = "local function get(key) return redis.call('GET', key) end
        for i = 2, #ARGV do get(ARGV[i]) end
        return {get(KEYS[2]), KEYS[0], ARGV[3] .. ARGV[2]}";
    assert_eq!(faults(script, 1, 2), ["reads KEYS[2] of 1", "reads KEYS[0] of 1", "reads ARGV[3] of 2"]);
    assert_eq!(faults("return {KEYS[1], ARGV[1]}", 1, 1), [""; 0]);
}

#[test]
fn the_code_of_a_script_is_without_comments_and_indentation() {
    const TEXT: &str =
        "-- Says what it does.\n--\n\nif a - -1 then\n  -- Why.\n  return '--' -- kept\nend\n\n";
    let expected = b"if a - -1 then\nreturn '--' -- kept\nend\n";
    assert_eq!(code::<39>(TEXT), (*expected, expected.len()));
    assert_eq!(code::<0>("-- nothing"), ([], 0));
}
