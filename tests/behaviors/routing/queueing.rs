//! A host is sent as many requests at a time as it takes; others wait for a place, and none waits behind a hot caller.

use serde_json::Value;

use crate::behaviors::{prelude::*, surfaces};

/// The surfaces, each with an error shape of its own.
const SURFACES: [&str; 4] = ["/chat", CHAT, "/v1/chat/completions", "/v1/messages"];

/// One place on each host.
fn narrow(hosts: &[FakeOllama]) -> Setup {
    Setup::new(hosts).set("HOST_PARALLEL", "1")
}

fn waiting(fleet: &Value) -> usize {
    fleet["queue"]["waiting"].as_u64().and_then(|count| count.try_into().ok()).unwrap_or_default()
}

/// Waits until so many requests wait for a place.
async fn until_waiting(gateway: &dyn Gateway, count: usize) -> Result<()> {
    gateway.until_fleet(|fleet| waiting(fleet) == count).await.map(drop)
}

/// A question of a caller's; what comes of it.
async fn ask_as(gateway: &dyn Gateway, caller: &str, message: &str) -> Result<Reply> {
    gateway.chat_with(json!({ "message": message }), &[("x-api-key", caller)]).await
}

/// What Ollama was asked, in order.
fn asked(ollama: &FakeOllama) -> Vec<String> {
    let last = |request: &Recorded| request.messages().pop().unwrap_or_default().replace("user: ", "");
    ollama.chat_requests().iter().map(last).collect()
}

async fn a_host_has_as_many_requests_of_a_model_as_it_takes(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama]).set("HOST_PARALLEL", "2")).await?;
    let gate = Gate::default();
    ollama.chats(Scripted::saying("done")?.behind(&gate));
    let watch = async {
        until_waiting(gateway.as_ref(), 2).await?;
        assert_eq!(ollama.count(CHAT), 2);
        // Another model has places of its own.
        let other = gateway.chat(json!({"message": "hello", "model": "qwen3"}));
        let see = async {
            ollama.wait_for_requests(CHAT, 3, PATIENCE).await?;
            assert_eq!(ollama.chat_requests()[2].model(), "qwen3");
            // Each that ends makes room for one.
            for done in 1..=2 {
                gate.open(1);
                ollama.wait_for_requests(CHAT, 3 + done, PATIENCE).await?;
                until_waiting(gateway.as_ref(), 2 - done).await?;
                assert_eq!(ollama.count(CHAT), 3 + done);
            }
            gate.open(3);
            anyhow::Ok(())
        };
        let (other, seen) = futures::join!(other, see);
        assert_eq!(other?.status, 200);
        seen
    };
    let requests = join_all(["one", "two", "three", "four"].map(|message| gateway.say(message)));
    let (replies, seen) = futures::join!(requests, watch);
    seen?;
    replies.into_iter().collect::<Result<Vec<_>>>().map(drop)
}

async fn embeddings_do_not_wait_behind_answers(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(narrow(&hosts)).await?;
    let gate = Gate::default();
    hosts[0].chats(Scripted::saying("done")?.behind(&gate));
    let watch = async {
        until_waiting(gateway.as_ref(), 1).await?;
        for path in ["/api/embed", "/api/embeddings", "/v1/embeddings"] {
            let reply = gateway.post_to(path, surfaces::question("llama3.2"), &[]).await?;
            assert_eq!(reply.status, 200, "{path}");
        }
        assert_eq!(hosts[0].count(CHAT), 1);
        gate.open(2);
        anyhow::Ok(())
    };
    let (one, two, seen) = futures::join!(gateway.say("one"), gateway.say("two"), watch);
    seen.and(one).and(two).map(drop)
}

async fn what_a_request_waits_for_itself_is_no_work_ahead_of_it(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    hosts[0].loads(&["llama3.2:latest"]);
    let gateway = form.start(narrow(&hosts)).await?;
    let gate = Gate::default();
    hosts[0].chats(Scripted::saying("done")?.behind(&gate));
    let explained = async {
        hosts[0].wait_for_requests(CHAT, 1, PATIENCE).await?;
        gateway.chat_with(json!({"message": "waits"}), &[("x-paddock-explain", "1")]).await
    };
    let open = async {
        until_waiting(gateway.as_ref(), 1).await?;
        gate.open(2);
        anyhow::Ok(())
    };
    let (held, reply, opened) = futures::join!(gateway.say("held"), explained, open);
    opened.and(held)?;
    let reply = reply?;
    let route = reply.header("x-paddock-route");
    let wait = route.strip_prefix("auto; host 1: loaded, 0 of 1 in flight, wait ");
    let wait: u64 = wait.and_then(|wait| wait.strip_suffix(" ms")).context(route.to_owned())?.parse()?;
    // A fifth of its own time counts, of 2 s until one was seen, and its prompt; a request ahead would count with all of it.
    let fleet = gateway.get("/fleet").await?.json();
    let service = fleet["hosts"][0]["lanes"][0]["service_ms"].as_u64().context(fleet.to_string())?;
    assert!(wait <= 500 + service / 2, "{route} {service}");
    Ok(())
}

async fn a_full_host_is_waited_for_while_every_other_is_broken(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(narrow(&hosts).set("LB_POLICY", "round_robin")).await?;
    hosts[0].chats(refusal(503)?.with_header(http::header::RETRY_AFTER, "50"));
    let gate = Gate::default();
    hosts[1].chats(Scripted::saying("done")?.behind(&gate));
    let watch = async {
        hosts[1].wait_for_requests(CHAT, 1, PATIENCE).await?;
        let open = async {
            until_waiting(gateway.as_ref(), 2).await?;
            assert_eq!((hosts[0].count(CHAT), hosts[1].count(CHAT)), (1, 1));
            gate.open(3);
            anyhow::Ok(())
        };
        let (one, two, opened) = futures::join!(gateway.say("one"), gateway.say("two"), open);
        opened.and(one).and(two)
    };
    let (held, watched) = futures::join!(gateway.say("held"), watch);
    watched.and(held)?;
    assert_eq!((hosts[0].count(CHAT), hosts[1].count(CHAT)), (1, 3));
    Ok(())
}

async fn a_stream_holds_its_place_until_its_end(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(narrow(&hosts)).await?;
    let gate = Gate::default();
    hosts[0].next_chat(Scripted::saying("one two three")?.gated(&gate));
    let body = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "stream"}]});
    let mut stream = gateway.open_post(CHAT, body, &[]).await?;
    ensure!(stream.next_line().await?.is_some(), "no line");
    let watch = async {
        until_waiting(gateway.as_ref(), 1).await?;
        gate.open(2);
        for _ in 0..2 {
            ensure!(stream.next_line().await?.is_some(), "no line");
        }
        // Not even its last line but one makes room.
        until_waiting(gateway.as_ref(), 1).await?;
        assert_eq!(hosts[0].count(CHAT), 1);
        gate.open(1);
        stream.rest().await
    };
    let (reply, seen) = futures::join!(gateway.say("next"), watch);
    assert!(seen?.text().contains("\"done\":true"));
    assert_eq!(reply?.status, 200);
    Ok(())
}

async fn a_hot_caller_does_not_starve_another(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(narrow(&hosts)).await?;
    let gateway = gateway.as_ref();
    // Who was served at the beginning of all time was never served.
    gateway.pass(Duration::from_millis(10)).await;
    let gate = Gate::default();
    hosts[0].chats(Scripted::saying("done")?.behind(&gate));
    let first = ask_as(gateway, "hot", "hot 0");
    let messages: Vec<_> = (1..=10).map(|turn| format!("hot {turn}")).collect();
    let others = async {
        hosts[0].wait_for_requests(CHAT, 1, PATIENCE).await?;
        let hot = join_all(messages.iter().map(|message| ask_as(gateway, "hot", message)));
        let cool = async {
            until_waiting(gateway, 10).await?;
            let cool = ask_as(gateway, "cool", "cool");
            let serve = async {
                until_waiting(gateway, 11).await?;
                for served in 2..=12 {
                    gate.open(1);
                    hosts[0].wait_for_requests(CHAT, served, PATIENCE).await?;
                }
                gate.open(1);
                anyhow::Ok(())
            };
            let (cool, served) = futures::join!(cool, serve);
            served.and(cool)
        };
        let (hot, cool) = futures::join!(hot, cool);
        hot.into_iter().chain([cool]).collect::<Result<Vec<_>>>()
    };
    let (first, others) = futures::join!(first, others);
    assert!(others?.iter().chain([&first?]).all(|reply| reply.status == 200));
    let place = asked(&hosts[0]).iter().position(|message| message == "cool");
    assert!(place.is_some_and(|place| place <= 2), "{:?}", asked(&hosts[0]));
    Ok(())
}

/// What each surface says when a request gets no place.
fn is_overloaded(path: &str, reply: &Reply, words: &str) -> Result<()> {
    ensure!(reply.status == 503, "{path}: {} {}", reply.status, reply.text());
    let seconds: u64 = reply.header("retry-after").parse()?;
    ensure!(seconds > 0, "{path}: {:?}", reply.headers);
    let told = surfaces::told(path, reply)?;
    ensure!(told.contains(words), "{path}: {told}");
    let kind = if path == "/v1/messages" { "overloaded_error" } else { "api_error" };
    ensure!(path == CHAT || reply.at("/error/type") == kind, "{path}: {}", reply.text());
    let is_ours = path == "/chat" || path.starts_with("/v1/chat");
    ensure!(!is_ours || reply.at("/error/code") == "overloaded", "{path}: {}", reply.text());
    Ok(())
}

fn question(path: &str) -> Value {
    let mut question = surfaces::question("llama3.2");
    question["message"] = path.into();
    question
}

async fn a_full_queue_is_said_at_once_in_the_words_of_each_surface(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(narrow(&hosts).set("QUEUE_LIMIT", "1")).await?;
    let gate = Gate::default();
    hosts[0].chats(Scripted::saying("done")?.behind(&gate));
    let watch = async {
        until_waiting(gateway.as_ref(), 1).await?;
        for path in SURFACES {
            is_overloaded(path, &gateway.post_to(path, question(path), &[]).await?, "full")?;
        }
        gate.open(2);
        anyhow::Ok(())
    };
    let (one, two, seen) = futures::join!(gateway.say("one"), gateway.say("two"), watch);
    seen.and(one).and(two)?;
    assert_eq!(hosts[0].count(CHAT), 2);
    assert_eq!(hosts[0].count("/v1/messages"), 0);
    Ok(())
}

async fn a_full_queue_makes_room_for_whoever_waits_less(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    let setup = narrow(&hosts).set("QUEUE_LIMIT", "2").set("CALLER_HEADER", "x-api-key");
    let gateway = form.start(setup).await?;
    let gateway = gateway.as_ref();
    // Who was served at the beginning of all time was never served.
    gateway.pass(Duration::from_millis(10)).await;
    let gate = Gate::default();
    hosts[0].chats(Scripted::saying("done")?.behind(&gate));
    let first = ask_as(gateway, "hot", "hot 0");
    let others = async {
        hosts[0].wait_for_requests(CHAT, 1, PATIENCE).await?;
        let older = ask_as(gateway, "hot", "hot 1");
        let newer = async {
            until_waiting(gateway, 1).await?;
            let newer = ask_as(gateway, "hot", "hot 2");
            let cool = async {
                until_waiting(gateway, 2).await?;
                ask_as(gateway, "cool", "cool").await
            };
            // Whoever loses its place is told so at once, which then shows that the other has it.
            let told = async {
                let newer = newer.await;
                gate.open(3);
                newer
            };
            let (newer, cool) = futures::join!(told, cool);
            anyhow::Ok((newer?, cool?))
        };
        let (older, newer) = futures::join!(older, newer);
        let (newer, cool) = newer?;
        anyhow::Ok([older?, newer, cool])
    };
    let (first, others) = futures::join!(first, others);
    let [older, newer, cool] = others?;
    assert_eq!(newer.outcome(), (503, "overloaded".to_owned()));
    assert_eq!([first?.status, older.status, cool.status], [200; 3]);
    assert_eq!(asked(&hosts[0]), ["hot 0", "cool", "hot 1"]);
    Ok(())
}

async fn a_caller_that_is_made_up_displaces_nobody_from_a_full_queue(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(narrow(&hosts).set("QUEUE_LIMIT", "2")).await?;
    let gateway = gateway.as_ref();
    let gate = Gate::default();
    hosts[0].chats(Scripted::saying("done")?.behind(&gate));
    let first = ask_as(gateway, "honest", "one");
    let others = async {
        hosts[0].wait_for_requests(CHAT, 1, PATIENCE).await?;
        let waiting = join_all(["two", "three"].map(|message| ask_as(gateway, "honest", message)));
        let made_up = async {
            until_waiting(gateway, 2).await?;
            for number in 0..5 {
                let reply = ask_as(gateway, &format!("made up {number}"), "me first").await?;
                assert_eq!(reply.outcome(), (503, "overloaded".to_owned()), "{number}");
            }
            gate.open(3);
            anyhow::Ok(())
        };
        let (waiting, made_up) = futures::join!(waiting, made_up);
        made_up?;
        waiting.into_iter().collect::<Result<Vec<_>>>()
    };
    let (first, others) = futures::join!(first, others);
    assert!(others?.iter().chain([&first?]).all(|reply| reply.status == 200));
    Ok(())
}

async fn a_wait_that_is_too_long_ends_in_the_words_of_each_surface(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(narrow(&hosts).set("QUEUE_TIMEOUT", "2")).await?;
    let gate = Gate::default();
    hosts[0].chats(Scripted::saying("done")?.behind(&gate));
    let waits = async {
        hosts[0].wait_for_requests(CHAT, 1, PATIENCE).await?;
        let ask = async |path| (path, gateway.post_to(path, question(path), &[]).await);
        let pass = async {
            until_waiting(gateway.as_ref(), SURFACES.len()).await?;
            gateway.pass(Duration::from_millis(2_100)).await;
            anyhow::Ok(())
        };
        let (replies, passed) = futures::join!(join_all(SURFACES.map(ask)), pass);
        passed?;
        for (path, reply) in replies {
            is_overloaded(path, &reply?, "too slow")?;
        }
        // Whoever gave up waits no more.
        until_waiting(gateway.as_ref(), 0).await?;
        gate.open(1);
        anyhow::Ok(())
    };
    let (held, waited) = futures::join!(gateway.say("held"), waits);
    waited.and(held)?;
    assert_eq!(hosts[0].count(CHAT), 1);
    Ok(())
}

on_every_form! {
    a_host_has_as_many_requests_of_a_model_as_it_takes,
    embeddings_do_not_wait_behind_answers,
    what_a_request_waits_for_itself_is_no_work_ahead_of_it,
    a_full_host_is_waited_for_while_every_other_is_broken,
    a_stream_holds_its_place_until_its_end,
    a_hot_caller_does_not_starve_another,
    a_full_queue_is_said_at_once_in_the_words_of_each_surface,
    a_full_queue_makes_room_for_whoever_waits_less,
    a_caller_that_is_made_up_displaces_nobody_from_a_full_queue,
    a_wait_that_is_too_long_ends_in_the_words_of_each_surface,
}
