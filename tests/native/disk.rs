//! State on disk: what was acknowledged outlives a process that is killed, and a disk that is full.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher as _, RandomState},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::join_all;
use paddock_tests::{
    artifacts,
    gateway::{HostShim, PATIENCE},
    http_client::{self, Reply},
    ollama::FakeOllama,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;

/// How often the process is killed under load.
const KILLS: u64 = 5;
/// More tokens than any session has.
const WINDOW: u64 = 10_000_000;
/// Clients at the same time; every other one has a session of its own.
const CLIENTS: usize = 6;

fn settings(ollama: &FakeOllama, directory: &Path) -> BTreeMap<String, String> {
    // Models that read whole sessions, as `say` asks for.
    ollama.reads(None, WINDOW);
    let pairs = [
        ("OLLAMA_HOSTS", ollama.url() + ";parallel=64"),
        ("DATA_DIR", directory.display().to_string()),
        ("HISTORY_MAX_MESSAGES", "100000".to_owned()),
        ("HISTORY_MAX_BYTES", "64MiB".to_owned()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn say(shim: &HostShim, session: &str, message: &str) -> Result<Reply> {
    let body = json!({"message": message, "session_id": session, "options": {"num_ctx": WINDOW}}).to_string();
    http_client::send(shim.address(), http::Request::post("/chat").body(body.into())?).await
}

/// What was asked in a session, as Ollama is told.
async fn questions(ollama: &FakeOllama, shim: &HostShim, session: &str) -> Result<Vec<String>> {
    ensure!(say(shim, session, "what did I say?").await?.status == 200, "no answer");
    let said = ollama.last_conversation();
    Ok(said.iter().filter_map(|line| line.strip_prefix("user: ")).map(str::to_owned).collect())
}

/// Runs the binary to its end, which must be a failure, and gives what it said.
async fn refusal(settings: BTreeMap<String, String>) -> Result<String> {
    let run = move || anyhow::Ok(HostShim::command(&settings)?.output()?);
    let output = tokio::task::spawn_blocking(run).await??;
    ensure!(!output.status.success(), "it runs");
    Ok(String::from_utf8([&output.stdout[..], &output.stderr].concat())?)
}

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

#[tokio::test]
async fn an_acknowledged_turn_and_an_answer_outlive_a_kill() -> Result<()> {
    let (ollama, directory) = (FakeOllama::start().await?, TempDir::new()?);
    let place = directory.path().join("deeper/data");
    let settings = settings(&ollama, &place);
    let shim = HostShim::start(&settings).await?;
    assert_eq!(say(&shim, "", "cached").await?.cache(), "miss");
    assert_eq!(say(&shim, "s", "one").await?.header("x-session"), "stored");
    // Whose process is dropped is killed with SIGKILL.
    drop(shim);
    let mode = |path: &Path| anyhow::Ok(fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!((mode(&place)?, mode(&place.join("paddock.redb"))?), (0o700, 0o600));
    let shim = HostShim::start(&settings).await?;
    assert_eq!(say(&shim, "", "cached").await?.cache(), "hit");
    assert_eq!(questions(&ollama, &shim, "s").await?, ["one", "what did I say?"]);
    assert!(shim.logs().contains("kept on disk"), "{}", shim.logs());
    Ok(())
}

#[tokio::test]
async fn a_stop_keeps_what_was_not_on_disk_yet() -> Result<()> {
    let (ollama, directory) = (FakeOllama::start().await?, TempDir::new()?);
    let settings = settings(&ollama, directory.path());
    let mut shim = HostShim::start(&settings).await?;
    assert_eq!(say(&shim, "", "cached").await?.cache(), "miss");
    shim.terminate()?;
    assert!(shim.wait().await?.success());
    let shim = HostShim::start(&settings).await?;
    assert_eq!(say(&shim, "", "cached").await?.cache(), "hit");
    Ok(())
}

#[tokio::test]
async fn a_start_in_an_outage_of_all_hosts_finds_the_answers_of_before() -> Result<()> {
    let (ollama, directory) = (FakeOllama::start().await?, TempDir::new()?);
    let settings = settings(&ollama, directory.path());
    let mut shim = HostShim::start(&settings).await?;
    let first = say(&shim, "", "cached").await?;
    shim.terminate()?;
    assert!(shim.wait().await?.success());
    ollama.refuse().await;
    let shim = HostShim::start(&settings).await?;
    let hit = say(&shim, "", "cached").await?;
    assert_eq!((hit.cache(), &hit.body), ("hit", &first.body));
    Ok(())
}

/// One client: says one thing after the other until the service is gone. Gives what was acknowledged.
async fn client(
    shim: &HostShim,
    session: &str,
    name: &str,
    count: &watch::Sender<u64>,
) -> Result<Vec<String>> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let message = format!("{name} {number}");
        let Ok(reply) = say(shim, session, &message).await else { break };
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        ensure!(reply.header("x-session") == "stored", "{:?}", reply.headers);
        acknowledged.push(message);
        count.send_modify(|count| *count += 1);
    }
    Ok(acknowledged)
}

#[tokio::test]
async fn every_acknowledged_turn_is_there_once_and_in_order_whenever_the_process_is_killed() -> Result<()> {
    let (ollama, directory) = (Arc::new(FakeOllama::start().await?), TempDir::new()?);
    let settings = settings(&ollama, directory.path());
    let session =
        |client: usize| if client.is_multiple_of(2) { "shared".to_owned() } else { format!("own {client}") };
    let mut acknowledged = vec![Vec::new(); CLIENTS];
    for round in 0..KILLS {
        let shim = Arc::new(HostShim::start(&settings).await?);
        let (count, mut counted) = watch::channel(0);
        let clients = (0..CLIENTS).map(|number| {
            let (shim, count) = (Arc::clone(&shim), count.clone());
            let (session, name) = (session(number), format!("client {number} round {round}"));
            tokio::spawn(async move { client(&shim, &session, &name, &count).await })
        });
        let clients: Vec<_> = clients.collect();
        let enough = 5 + random(60);
        tokio::time::timeout(PATIENCE, counted.wait_for(|count| *count >= enough)).await??;
        // Any moment of a turn: the time is the test's input.
        tokio::time::sleep(Duration::from_micros(random(10_000))).await;
        shim.kill()?;
        for (client, said) in join_all(clients).await.into_iter().enumerate() {
            acknowledged[client].extend(said??);
        }
    }
    let shim = HostShim::start(&settings).await?;
    for (client, said) in acknowledged.iter().enumerate() {
        let found = questions(&ollama, &shim, &session(client)).await?;
        let places = said.iter().map(|message| {
            let places: Vec<_> = (0..found.len()).filter(|place| found[*place] == *message).collect();
            let [place] = places[..] else { bail!("{message} is there {} times: {found:#?}", places.len()) };
            Ok(place)
        });
        let places = places.collect::<Result<Vec<_>>>()?;
        assert!(places.is_sorted(), "{said:#?} in {found:#?}");
        // What was not acknowledged may be there, too, but not twice.
        let mut others: Vec<_> = found.iter().filter(|message| message.starts_with("client")).collect();
        let all = others.len();
        others.sort_unstable();
        others.dedup();
        assert_eq!(others.len(), all, "{found:#?}");
    }
    assert!(acknowledged.iter().map(Vec::len).sum::<usize>() as u64 >= 5 * KILLS);
    Ok(())
}

#[tokio::test]
async fn a_second_process_is_refused_and_the_first_goes_on() -> Result<()> {
    let (ollama, directory) = (FakeOllama::start().await?, TempDir::new()?);
    let settings = settings(&ollama, directory.path());
    let shim = HostShim::start(&settings).await?;
    let told = refusal(settings).await?;
    assert!(told.contains("DATA_DIR") && told.contains("another process"), "{told}");
    assert_eq!(say(&shim, "s", "one").await?.header("x-session"), "stored");
    Ok(())
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_and_a_file_that_is_no_database_are_told() -> Result<()> {
    let (ollama, directory) = (FakeOllama::start().await?, TempDir::new()?);
    fs::write(directory.path().join("paddock.redb"), "not a database at all")?;
    fs::write(directory.path().join("file"), "")?;
    for (place, sentence) in [
        (directory.path().to_owned(), "damaged"),
        (directory.path().join("file"), "cannot make the directory"),
        ("/proc/paddock".into(), "cannot make the directory"),
    ] {
        let told = refusal(settings(&ollama, &place)).await?;
        assert!(told.contains("DATA_DIR") && told.contains(sentence), "{told}");
        assert!(!told.contains("panicked"), "{told}");
    }
    Ok(())
}

/// Limits the size of every file that the process writes, or lifts the limit.
fn limit_files(shim: &HostShim, bytes: Option<u64>) -> Result<()> {
    let pid = Pid::from_raw(shim.id().try_into()?).context("no process id")?;
    // The process has the limits of its parent.
    let Rlimit { current, maximum } = getrlimit(Resource::Fsize);
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes.or(current), maximum })?;
    Ok(())
}

#[tokio::test]
async fn chats_go_on_while_the_disk_is_full_and_turns_are_stored_again_when_it_is_not() -> Result<()> {
    let (ollama, directory) = (FakeOllama::start().await?, TempDir::new()?);
    // A file that may not grow is the full disk that needs no privilege. Its signal is kept away, which exec leaves so.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\""]).arg(artifacts::host_shim()?).env_clear();
    command.env("LISTEN", "127.0.0.1:0").env("LOG_FORMAT", "json").envs(settings(&ollama, directory.path()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shim = HostShim::spawn(&mut command).await?;
    let mut acknowledged = vec!["first".to_owned()];
    assert_eq!(say(&shim, "s", "first").await?.header("x-session"), "stored");
    limit_files(&shim, Some(fs::metadata(directory.path().join("paddock.redb"))?.len()))?;
    let mut refused = 0;
    for number in 0_u32.. {
        let message = format!("{number} {}", "x".repeat(20_000));
        let reply = say(&shim, "s", &message).await?;
        assert_eq!(reply.status, 200, "{}", reply.text());
        match reply.header("x-session") {
            "stored" => acknowledged.push(message),
            other => {
                assert_eq!(other, "unavailable");
                refused += 1;
            }
        }
        // What is there is still read, once the database is open again.
        if refused >= 3 && ollama.last_conversation().contains(&"user: first".to_owned()) {
            break;
        }
        ensure!(number < 1_000, "the disk is never full, or cannot be read:\n{}", shim.logs());
    }
    limit_files(&shim, None)?;
    let started = Instant::now();
    loop {
        let message = format!("again {}", acknowledged.len());
        let reply = say(&shim, "s", &message).await?;
        assert_eq!(reply.status, 200, "{}", reply.text());
        if reply.header("x-session") == "stored" {
            acknowledged.push(message);
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "still not stored:\n{}", shim.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let found = questions(&ollama, &shim, "s").await?;
    for message in &acknowledged {
        let times = found.iter().filter(|found| *found == message).count();
        assert_eq!(times, 1, "{}", &message[..20.min(message.len())]);
    }
    Ok(())
}
