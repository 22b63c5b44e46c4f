//! The response cache on the surfaces that Ollama speaks.

use serde_json::Value;

use super::cache_control::wishing;
use crate::behaviors::prelude::*;

/// The surfaces whose answers can come in pieces.
const SPOKEN: [&str; 5] = [CHAT, "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages"];
/// Those that embed.
const EMBEDDING: [&str; 3] = ["/api/embed", "/api/embeddings", "/v1/embeddings"];
/// Those that a conversation comes by.
pub(super) const CONVERSATIONS: [&str; 4] = ["/chat", CHAT, "/v1/chat/completions", "/v1/messages"];

/// A question that every surface understands, with more in it.
pub(super) fn asking(stream: bool, more: &Value) -> Value {
    let mut body = json!({
        "model": "llama3.2", "max_tokens": 64, "stream": stream, "message": "one two three",
        "messages": [{"role": "user", "content": "one two three"}], "prompt": "one two three", "input": "one two three",
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// The same with a seed, wherever a surface looks for one.
pub(super) fn seeded(stream: bool) -> Value {
    // Anthropic's protocol knows no seed.
    asking(stream, &json!({"seed": 7, "temperature": 0, "options": {"seed": 7}}))
}

pub(super) async fn ask(gateway: &dyn Gateway, path: &str, body: &Value) -> Result<Reply> {
    let reply = gateway.post_to(path, body.clone(), &[]).await?;
    ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.text());
    Ok(reply)
}

/// What the cache did for a body.
async fn cached(gateway: &dyn Gateway, path: &str, body: &Value) -> Result<String> {
    Ok(ask(gateway, path, body).await?.cache().to_owned())
}

async fn what_is_wanted_the_same_again_is_answered_with_the_same_bytes(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let wishes = [
        json!({"seed": 7, "options": {"seed": 7}}),
        json!({"temperature": 0, "options": {"temperature": 0.0}}),
    ];
    for path in SPOKEN {
        for (index, wish) in
            wishes.iter().enumerate().filter(|(index, _)| path != "/v1/messages" || *index == 1)
        {
            for stream in [false, true] {
                // A word of its own, for an answer may serve the other form, too.
                let mut body = asking(stream, wish);
                let text = format!("one two {index} {stream}");
                body["prompt"] = json!(text);
                body["messages"] = json!([{"role": "user", "content": text}]);
                let (first, second) =
                    (ask(&*gateway, path, &body).await?, ask(&*gateway, path, &body).await?);
                assert_eq!((first.cache(), second.cache()), ("miss", "hit"), "{path} {body}");
                assert_eq!(first.body, second.body, "{path}");
                for name in ["content-type", "content-length"] {
                    assert_eq!(first.header(name), second.header(name), "{path}");
                }
                assert_eq!((first.header("age"), second.header("x-paddock-host")), ("", ""), "{path}");
                assert!(!second.header("age").is_empty(), "{path}");
            }
        }
    }
    for path in EMBEDDING {
        let body = asking(false, &json!({}));
        let (first, second) = (ask(&*gateway, path, &body).await?, ask(&*gateway, path, &body).await?);
        assert_eq!((first.cache(), second.cache(), &first.body), ("miss", "hit", &second.body), "{path}");
        assert_eq!(ollama.count(path), 1);
    }
    Ok(())
}

async fn what_may_differ_each_time_is_asked_each_time(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let tools = json!([{"type": "function", "name": "f", "function": {"name": "f", "parameters": {}}}]);
    let bodies = [
        json!({}),
        json!({"temperature": 0.1, "options": {"temperature": 1}}),
        json!({"seed": null}),
        json!({"seed": 7, "temperature": 0, "options": {"seed": 7}, "tools": tools}),
    ];
    for path in SPOKEN {
        for more in &bodies {
            for _ in 0..2 {
                assert_eq!(cached(&*gateway, path, &asking(false, more)).await?, "bypass", "{path} {more}");
            }
        }
        assert_eq!(ollama.count(path), 8, "{path}");
    }
    Ok(())
}

async fn the_operator_says_what_is_cached(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let twice = async |setup: Setup, path: &str, more: Value| {
        let gateway = form.start(setup).await?;
        let body = asking(false, &more);
        let first = cached(&*gateway, path, &body).await?;
        anyhow::Ok((first, cached(&*gateway, path, &body).await?))
    };
    let set = |name: &str, value: &str| Setup::new([&ollama]).set(name, value);
    let of = |first: &str, second: &str| (first.to_owned(), second.to_owned());
    let (hit, bypass) = (of("miss", "hit"), of("bypass", "bypass"));
    let qwen = json!({"model": "qwen3", "seed": 1, "options": {"seed": 1}});
    for (setup, path, more, expected) in [
        (set("CACHE_MODE", "all"), CHAT, json!({}), &hit),
        (set("CACHE_MODE", "off"), "/chat", json!({}), &bypass),
        (set("CACHE_MODE", "off"), "/api/embed", json!({}), &bypass),
        (set("CACHE_MODELS", "qwen3=off"), CHAT, qwen.clone(), &bypass),
        (set("CACHE_MODELS", "qwen3=off"), "/chat", qwen.clone(), &bypass),
        (set("CACHE_MODELS", "llama3.2:latest=all"), CHAT, json!({}), &hit),
        (set("CACHE_MODE", "off").set("CACHE_MODELS", "qwen3=auto"), CHAT, qwen.clone(), &hit),
        (set("CACHE_MODELS", "qwen3=all").set("CACHE_ENABLED", "false"), CHAT, qwen, &bypass),
    ] {
        let settings = format!("{path} {more} {setup:?}");
        assert_eq!(&twice(setup, path, more).await?, expected, "{settings}");
    }
    Ok(())
}

async fn callers_share_answers_where_the_operator_says_so(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    for (scope, second) in [("caller", "miss"), ("shared", "hit")] {
        let gateway = form.start(setup.clone().set("CACHE_SCOPE", scope)).await?;
        for path in ["/chat", CHAT, "/api/embed"] {
            for (caller, expected) in [("ann", "miss"), ("bob", second), ("ann", "hit")] {
                let reply = gateway.post_to(path, seeded(false), &[("x-api-key", caller)]).await?;
                assert_eq!(reply.cache(), expected, "{scope} {path} {caller}");
            }
        }
    }
    Ok(())
}

async fn one_answer_serves_both_forms_where_nothing_is_lost(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, first, expected) in [
        (CHAT, false, "hit"),
        (CHAT, true, "hit"),
        ("/api/generate", false, "hit"),
        ("/api/generate", true, "hit"),
        ("/v1/chat/completions", false, "hit"),
        ("/v1/chat/completions", true, "miss"),
        ("/v1/completions", false, "hit"),
        ("/v1/completions", true, "miss"),
        ("/v1/messages", false, "miss"),
        ("/v1/messages", true, "miss"),
        ("/v1/responses", false, "miss"),
        ("/v1/responses", true, "miss"),
        ("/chat", false, "hit"),
        ("/chat", true, "hit"),
    ] {
        let mut body = seeded(first);
        // Whoever asks another way asks another question.
        body["prompt"] = json!(format!("one two {first}"));
        body["message"] = body["prompt"].clone();
        body["input"] = body["prompt"].clone();
        body["messages"] = json!([{"role": "user", "content": body["prompt"]}]);
        assert_eq!(cached(&*gateway, path, &body).await?, "miss", "{path} {first}");
        body["stream"] = json!(!first);
        let other = ask(&*gateway, path, &body).await?;
        assert_eq!(other.cache(), expected, "{path} {first}");
        let said = words(path, &other);
        assert!(said.starts_with(&format!("echo of one two {first} #")), "{path} {first}: {said}");
        // What was built is what is built again, and what was asked anew is kept as well.
        assert_eq!(cached(&*gateway, path, &body).await?, "hit", "{path} {first}");
        // The first one is still there beside it.
        body["stream"] = json!(first);
        assert_eq!(cached(&*gateway, path, &body).await?, "hit", "{path} {first}");
    }
    Ok(())
}

/// What the model said, in any form of any protocol.
pub(super) fn words(path: &str, reply: &Reply) -> String {
    let text = reply.text();
    let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let places: &[&str] = match path {
        "/chat" => &["/response", "/delta"],
        CHAT => &["/message/content"],
        "/api/generate" => &["/response"],
        "/v1/messages" => &["/content/0/text", "/delta/text"],
        "/v1/responses" => &["/output/0/content/0/text", "/delta"],
        _ => &["/choices/0/message/content", "/choices/0/delta/content", "/choices/0/text"],
    };
    let objects = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects
        .flat_map(|object| {
            places
                .iter()
                .filter_map(|place| object.pointer(place)?.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The pieces of two replies to the same question, the second from the cache, and how long that took.
async fn streamed_twice(gateway: &dyn Gateway, path: &str) -> Result<([Vec<bytes::Bytes>; 2], Duration)> {
    let mut replies = [Vec::new(), Vec::new()];
    let mut time = Duration::ZERO;
    for (pieces, expected) in replies.iter_mut().zip(["miss", "hit"]) {
        let started = Instant::now();
        let mut reply = gateway.open_post(path, seeded(true), &[]).await?;
        assert_eq!(reply.header("x-cache"), expected, "{path}");
        while let Some(piece) = reply.next().await? {
            pieces.push(piece);
        }
        time = started.elapsed();
    }
    Ok((replies, time))
}

async fn a_streamed_hit_has_the_events_of_the_first_time(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ["/chat"].into_iter().chain(SPOKEN) {
        let (replies, _) = streamed_twice(&*gateway, path).await?;
        let [first, second] = replies.map(|pieces| String::from_utf8_lossy(&pieces.concat()).into_owned());
        assert_eq!(first.replace("\"cache\":\"miss\"", "\"cache\":\"hit\""), second, "{path}");
        // Five words and the end.
        assert!(second.lines().count() > 5, "{path}: {second}");
    }
    Ok(())
}

async fn a_streamed_hit_can_be_paced(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_REPLAY_PAUSE", "40ms")).await?;
    for path in [CHAT, "/chat"] {
        let ([_, pieces], time) = streamed_twice(&*gateway, path).await?;
        assert!(pieces.len() >= 5, "{path}: {pieces:?}");
        assert!(time >= Duration::from_millis(5 * 40), "{path}: {time:?}");
    }
    Ok(())
}

async fn only_what_is_complete_and_says_something_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let mut number = 0;
    for path in ["/chat", CHAT] {
        for stream in [true, false] {
            let mut faults =
                vec![Scripted::crashed_in_stream()?, Scripted::cut()?, Scripted::unfinished(End::Clean)?];
            faults.extend([Scripted::stream("llama3.2", "", 0)?, refusal(500)?]);
            if path == CHAT && !stream {
                faults = vec![Scripted::single("llama3.2", "", 0)?, refusal(500)?, refusal(404)?];
                faults.push(
                    Scripted::single("llama3.2", "half", 0)?
                        .ending_after(1, End::Cut)
                        .in_pieces_of(20)
                        .ending_after(2, End::Cut),
                );
            }
            for fault in faults {
                number += 1;
                let mut body = seeded(stream);
                body["message"] = json!(format!("question {number}"));
                body["messages"] = json!([{"role": "user", "content": format!("question {number}")}]);
                ollama.next_chat(fault.clone());
                // It may break before its end.
                drop(gateway.post_to(path, body.clone(), &[]).await);
                let reply = ask(&*gateway, path, &body).await?;
                assert_eq!(reply.cache(), "miss", "{path} {stream} {fault:?}");
                assert!(words(path, &reply).starts_with(&format!("echo of question {number} #")), "{path}");
            }
        }
    }
    for (question, answer) in [
        ("a", json!({"error": "out of memory"})),
        ("b", json!({"embeddings": [], "embedding": [], "data": []})),
    ] {
        for path in EMBEDDING {
            let mut body = seeded(false);
            (body["input"], body["prompt"]) = (json!(question), json!(question));
            ollama.next(path, whole("18-embed-dimensions", &answer)?);
            drop(gateway.post_to(path, body.clone(), &[]).await);
            assert_eq!(cached(&*gateway, path, &body).await?, "miss", "{path}");
        }
    }
    Ok(())
}

async fn what_is_larger_than_is_kept_is_answered_and_not_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    for (limit, expected) in [("10", "miss"), ("100KiB", "hit")] {
        let gateway = form.start(setup.clone().set("CACHE_MAX_ENTRY", limit)).await?;
        for path in ["/chat", CHAT, "/v1/chat/completions"] {
            for stream in [false, true] {
                let mut body = seeded(stream);
                body["message"] = json!(format!("one two three {limit} {stream}"));
                body["messages"] = json!([{"role": "user", "content": body["message"]}]);
                let first = ask(&*gateway, path, &body).await?;
                let said = words(path, &first);
                assert!(
                    said.starts_with(&format!("echo of one two three {limit} {stream} #")),
                    "{path}: {said}"
                );
                assert_eq!(cached(&*gateway, path, &body).await?, expected, "{path} {limit} {stream}");
            }
        }
    }
    Ok(())
}

async fn a_long_stream_is_kept_when_it_shrinks_to_what_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MAX_ENTRY", "8KiB")).await?;
    for path in ["/chat", CHAT] {
        ollama.next_chat(Scripted::saying(&"word ".repeat(200))?);
        let first = ask(&*gateway, path, &seeded(true)).await?;
        let hit = ask(&*gateway, path, &seeded(true)).await?;
        assert_eq!((hit.cache(), words(path, &hit)), ("hit", words(path, &first)), "{path}");
        assert!(path != CHAT || first.body.len() > 16 << 10, "{path} {}", first.body.len());
    }
    Ok(())
}

async fn whatever_differs_is_another_question_on_every_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MODE", "all")).await?;
    let tool = |name: &str| json!([{"type": "function", "name": name, "input_schema": {}, "function": {"name": name, "parameters": {}}}]);
    let said = |history: &str| json!([{"role": "user", "content": history}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why?"}]);
    let system =
        |words: &str| json!([{"role": "system", "content": words}, {"role": "user", "content": "why?"}]);
    let image = |data: &str| json!([{"role": "user", "content": "why?", "images": [data]}]);
    let (base, pair) = (
        json!([{"role": "user", "content": "why?"}]),
        |path: &str, name: &str, value: Value| {
            let mut body = json!({"model": "llama3.2", "stream": false, "max_tokens": 9, "temperature": 0, "options": {"seed": 1}});
            if path == "/chat" {
                body = json!({"model": "llama3.2", "message": "why?", "options": {"seed": 1}});
            }
            body[name] = value;
            body
        },
    );
    for path in CONVERSATIONS {
        let mut bodies = vec![
            pair(path, "model", json!("qwen3")),
            pair(path, "options", json!({"seed": 2})),
            pair(path, "options", json!({"seed": 1, "top_k": 3})),
            pair(path, "tools", tool("a")),
            pair(path, "tools", tool("b")),
            pair(path, "system", json!("be brief")),
            pair(path, "system", json!("be long")),
        ];
        if path == "/chat" {
            bodies.push(pair(path, "images", json!(["aGVsbG8="])));
            bodies.push(pair(path, "images", json!(["aGFsbG8="])));
            bodies.push(pair(path, "think", json!(false)));
            bodies.push(pair(path, "format", json!("json")));
        } else {
            for body in &mut bodies {
                body["messages"] = base.clone();
            }
            for messages in [said("it is so"), said("it is not so"), image("aGVsbG8="), image("aGFsbG8=")] {
                bodies.push(pair(path, "messages", messages));
            }
            if path != "/v1/messages" {
                bodies.extend(
                    [system("be brief"), system("be long")].map(|messages| pair(path, "messages", messages)),
                );
            }
            bodies.push(pair(path, "messages", base.clone()));
        }
        let asked = ollama.requests().len();
        for body in &bodies {
            assert_eq!(cached(&*gateway, path, body).await?, "miss", "{path} {body}");
        }
        for body in &bodies {
            assert_eq!(cached(&*gateway, path, body).await?, "hit", "{path} {body}");
            for headers in [&[("x-api-key", "ann")][..], &[("authorization", "Bearer bob")]] {
                let reply = gateway
                    .post_to(path, body.clone(), &[headers, &[("cache-control", "only-if-cached")]].concat())
                    .await?;
                assert_eq!(reply.status, 504, "{path} {body} {headers:?}");
            }
        }
        let chats = ollama.requests().iter().skip(asked).filter(|request| request.method == "POST").count();
        assert_eq!(chats, bodies.len(), "{path}");
    }
    Ok(())
}

/// A recorded answer in one piece with another body.
fn whole(recorded: &str, body: &Value) -> Result<Scripted> {
    let mut scripted = Scripted::recorded(recorded)?.in_pieces_of(usize::MAX);
    scripted.pieces.first_mut().context("no piece")?.bytes = body.to_string().into();
    // The length is told anew.
    Ok(scripted.ending_after(1, End::Clean))
}

/// A list of the one model, with this content.
fn tags(digest: &str) -> Result<Scripted> {
    let model = json!({"name": "llama3.2:latest", "model": "llama3.2:latest", "digest": digest, "size": 1});
    whole("04-tags", &json!({"models": [model]}))
}

async fn a_model_that_was_pulled_anew_is_asked_anew_and_an_outage_is_nothing_new(
    form: &dyn Form,
) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[0].lists(tags("aa")?);
    hosts[1].lists(tags("bb")?);
    let gateway = form.start(Setup::new(&hosts)).await?;
    gateway.look_at_all_hosts().await?;
    let again = Duration::from_millis(2500);
    let paths = ["/chat", CHAT, "/api/embed"];
    let mut first = Vec::new();
    for path in paths {
        first.push(ask(&*gateway, path, &seeded(false)).await?.body);
    }
    hosts[1].refuse().await;
    for _ in 0..2 {
        for (path, body) in paths.iter().zip(&first) {
            let hit = ask(&*gateway, path, &seeded(false)).await?;
            assert_eq!((hit.cache(), &hit.body), ("hit", body), "{path}");
        }
        // By then the hosts were asked what they have once more.
        gateway.pass(again).await;
    }
    hosts[0].lists(tags("cc")?);
    let started = Instant::now();
    // A hit until somebody has looked.
    while wishing(&*gateway, CHAT, "only-if-cached", &seeded(false)).await?.status == 200 {
        ensure!(started.elapsed() < PATIENCE, "still a hit");
        gateway.pass(Duration::from_millis(50)).await;
    }
    for path in paths {
        assert_eq!(cached(&*gateway, path, &seeded(false)).await?, "miss", "{path}");
        assert_eq!(cached(&*gateway, path, &seeded(false)).await?, "hit", "{path}");
    }
    Ok(())
}

async fn a_replica_that_begins_in_an_outage_finds_the_answers_of_before(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[0].lists(tags("aa")?);
    hosts[1].lists(tags("bb")?);
    let setup = Setup::new(&hosts);
    let first = form.start(setup.clone()).await?;
    first.look_at_all_hosts().await?;
    let answer = ask(&*first, "/chat", &seeded(false)).await?;
    hosts[1].refuse().await;
    let second = form.start(setup.clone()).await?;
    let hit = ask(&*second, "/chat", &seeded(false)).await?;
    assert_eq!((hit.cache(), &hit.body), ("hit", &answer.body));
    hosts[0].refuse().await;
    let third = form.start(setup).await?;
    let hit = ask(&*third, "/chat", &seeded(false)).await?;
    assert_eq!((hit.cache(), &hit.body), ("hit", &answer.body));
    Ok(())
}

on_every_store! {
    what_is_wanted_the_same_again_is_answered_with_the_same_bytes,
    what_may_differ_each_time_is_asked_each_time,
    the_operator_says_what_is_cached,
    callers_share_answers_where_the_operator_says_so,
    one_answer_serves_both_forms_where_nothing_is_lost,
    a_streamed_hit_has_the_events_of_the_first_time,
    only_what_is_complete_and_says_something_is_kept,
    what_is_larger_than_is_kept_is_answered_and_not_kept,
    a_long_stream_is_kept_when_it_shrinks_to_what_is_kept,
    whatever_differs_is_another_question_on_every_surface,
    a_model_that_was_pulled_anew_is_asked_anew_and_an_outage_is_nothing_new,
}

/// In memory time passes by hand.
mod pacing {
    use super::a_streamed_hit_can_be_paced;

    over_http! {
        a_streamed_hit_can_be_paced,
    }
}

/// What replicas learn of hosts is in the store that they share.
mod outages {
    use super::a_replica_that_begins_in_an_outage_finds_the_answers_of_before;

    over_redis! {
        a_replica_that_begins_in_an_outage_finds_the_answers_of_before,
    }
}
