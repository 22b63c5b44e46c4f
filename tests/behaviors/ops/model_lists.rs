//! What concerns all hosts or any: lists of models, one model, the version, the banner.

use http::{HeaderMap, StatusCode};
use paddock_tests::ollama::{Pause, Piece};

use crate::behaviors::{prelude::*, surfaces};

/// The names in a list, in its order.
fn names(reply: &Reply) -> Vec<String> {
    let body = reply.json();
    let entries = body.get("models").or_else(|| body.get("data")).and_then(|list| list.as_array());
    let name = |entry: &serde_json::Value| {
        entry.get("name").or_else(|| entry.get("id")).and_then(|name| name.as_str()).map(str::to_owned)
    };
    entries.into_iter().flatten().filter_map(name).collect()
}

async fn list(gateway: &dyn Gateway, path: &str) -> Result<Vec<String>> {
    let reply = gateway.get(path).await?;
    ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.text());
    let kind = reply.json().get("object").cloned().unwrap_or_default();
    assert_eq!(kind, if path == "/v1/models" { "list".into() } else { json!(null) }, "{path}");
    Ok(names(&reply))
}

async fn the_models_of_all_hosts_are_one_list_and_each_comes_once(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.has_models(&["llama3.2:latest", "qwen3:4b"]);
    second.has_models(&["qwen3:4b", "phi4:14b"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    for path in ["/api/tags", "/v1/models"] {
        assert_eq!(
            list(gateway.as_ref(), path).await?,
            ["llama3.2:latest", "qwen3:4b", "phi4:14b"],
            "{path}"
        );
    }
    first.has_models(&[]);
    second.has_models(&[]);
    for path in ["/api/tags", "/v1/models"] {
        assert!(list(gateway.as_ref(), path).await?.is_empty(), "{path}");
        let reply = gateway.get(path).await?;
        assert!(reply.text().contains("[]"), "an empty list is a list: {}", reply.text());
    }
    Ok(())
}

async fn a_model_comes_as_often_as_it_is_loaded(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.loads(&["llama3.2:latest"]);
    second.loads(&["llama3.2:latest", "phi4:14b"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    let loaded = list(gateway.as_ref(), "/api/ps").await?;
    assert_eq!(loaded, ["llama3.2:latest", "llama3.2:latest", "phi4:14b"]);
    Ok(())
}

async fn a_host_that_does_not_answer_is_left_out_of_a_list(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    second.has_models(&["phi4:14b"]);
    second.loads(&["phi4:14b"]);
    let gateway = form.start(Setup::new([&first, &second]).set("HEALTH_TIMEOUT", "500ms")).await?;
    let lists = ["/api/tags", "/api/ps", "/v1/models"];
    for fault in [Some(Scripted::hang()), Some(refusal(503)?), Some(Scripted::cut()?), None] {
        if let Some(fault) = fault {
            for path in lists {
                first.answers(path, fault.clone());
            }
        } else {
            first.refuse().await;
        }
        for path in lists {
            let found = list(gateway.as_ref(), path).await?;
            assert!(found.contains(&"phi4:14b".to_owned()), "{path}: {found:?}");
        }
    }
    second.refuse().await;
    for path in lists {
        let reply = gateway.get(path).await?;
        assert_eq!(reply.status, 502, "{path}");
        assert!(surfaces::told(path, &reply)?.contains("no Ollama host can be reached"), "{path}");
    }
    Ok(())
}

async fn a_late_host_is_as_it_was_and_holds_no_list(form: &dyn Form) -> Result<()> {
    let (first, late) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.has_models(&["llama3.2:latest"]);
    late.has_models(&["phi4:14b"]);
    first.loads(&["llama3.2:latest"]);
    late.loads(&["phi4:14b"]);
    let setup = Setup::new([&first, &late]).set("HEALTH_TIMEOUT", "30").in_one_instance();
    let gateway = form.start(setup).await?;
    let lists = [TAGS, "/api/ps", "/v1/models"];
    for path in lists {
        assert_eq!(list(gateway.as_ref(), path).await?, ["llama3.2:latest", "phi4:14b"], "{path}");
        late.answers(path, Scripted::hang());
    }
    // What was pulled a moment ago is there.
    first.has_models(&["llama3.2:latest", "qwen3:4b"]);
    for path in lists {
        let started = Instant::now();
        let asked = late.count(path);
        let waiting = async {
            late.wait_for_requests(path, asked + 1, PATIENCE).await?;
            gateway.pass(Duration::from_secs(1)).await;
            anyhow::Ok(())
        };
        let (found, waited) = futures::join!(list(gateway.as_ref(), path), waiting);
        waited?;
        let found = found?;
        // Under a second, but for a busy machine.
        assert!(started.elapsed() < Duration::from_secs(5), "{path}: {:?}", started.elapsed());
        assert!(found.contains(&"phi4:14b".to_owned()), "{path}: {found:?}");
        assert_eq!(found.contains(&"qwen3:4b".to_owned()), path != "/api/ps", "{path}: {found:?}");
    }
    late.recover();
    late.has_models(&["gemma3:4b"]);
    assert_eq!(list(gateway.as_ref(), TAGS).await?, ["llama3.2:latest", "qwen3:4b", "gemma3:4b"]);
    Ok(())
}

async fn a_late_host_of_which_nothing_is_known_is_waited_for(form: &dyn Form) -> Result<()> {
    let (first, late) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.has_models(&["llama3.2:latest"]);
    late.has_models(&["phi4:14b"]);
    let body =
        r#"{"object":"list","data":[{"id":"phi4:14b","object":"model","created":1,"owned_by":"library"}]}"#;
    let gate = Gate::default();
    let slow = Scripted {
        head_after: Pause::At(gate.clone()),
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        pieces: vec![Piece { after: Pause::NONE, bytes: body.into() }],
        end: End::Clean,
    };
    late.answers("/v1/models", slow);
    let gateway = form.start(Setup::new([&first, &late]).set("HEALTH_TIMEOUT", "30")).await?;
    let waiting = async {
        late.wait_for_requests("/v1/models", 1, PATIENCE).await?;
        gateway.pass(Duration::from_secs(1)).await;
        gate.open(1);
        anyhow::Ok(())
    };
    let (found, waited) = futures::join!(list(gateway.as_ref(), "/v1/models"), waiting);
    waited?;
    assert_eq!(found?, ["llama3.2:latest", "phi4:14b"]);
    Ok(())
}

async fn one_model_is_found_on_the_host_that_has_it(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    second.has_models(&["qwen3:4b", "me/mine:1"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    for _ in 0..2 {
        for model in ["qwen3:4b", "me/mine:1"] {
            let found = gateway.get(&format!("/v1/models/{model}")).await?;
            assert_eq!((found.status.as_u16(), found.at("/id")), (200, model.to_owned()), "{}", found.text());
            assert_eq!(found.header("x-paddock-host"), "2");
        }
        let shown = gateway.post_to("/api/show", json!({"model": "qwen3:4b"}), &[]).await?;
        assert_eq!((shown.status.as_u16(), shown.header("x-paddock-host")), (200, "2"));
    }
    let encoded = gateway.get("/v1/models/qwen3%3A4b").await?;
    assert_eq!((encoded.status.as_u16(), encoded.header("x-paddock-host")), (200, "2"));
    // A path that names no model reaches no host, and nobody's page before one.
    let is_of_a_model = |request: &Recorded| request.path.starts_with("/v1/models/");
    let asked = || [&first, &second].map(|host| host.requests().into_iter().filter(is_of_a_model).count());
    let before = asked();
    for path in ["/v1/models/..", "/v1/models/x/", "/v1/models/a/%2e%2e/%2e%2e/b/c", "/v1/models/a%20b"] {
        let reply = gateway.get(path).await?;
        assert_eq!(
            (reply.status.as_u16(), reply.at("/error/type")),
            (404, "not_found_error".to_owned()),
            "{path}"
        );
    }
    assert_eq!(asked(), before);
    // Clients of old call it name.
    for field in ["model", "name"] {
        let missing = gateway.post_to("/api/show", json!({field: "mistral"}), &[]).await?;
        let words = surfaces::told("/api/show", &missing)?;
        assert!(missing.status == 404 && words.contains("'mistral'"), "{field}: {words}");
    }
    Ok(())
}

async fn the_version_is_that_of_a_host_and_the_banner_ollamas(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.refuse().await;
    let gateway = form.start(Setup::new([&first, &second])).await?;
    let version = gateway.get("/api/version").await?;
    assert_eq!((version.at("/version").as_str(), version.header("x-paddock-host")), ("0.33.0-rc2", "2"));
    for path in ["/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/v1/models/llama3.2"] {
        let (whole, head) = (gateway.get(path).await?, gateway.request(Method::HEAD, path, "", &[]).await?);
        assert_eq!((whole.status.as_u16(), head.status.as_u16()), (200, 200), "{path}");
        assert!(head.body.is_empty() && !whole.body.is_empty(), "{path}");
        for name in ["content-type", "content-length"] {
            assert_eq!(whole.header(name), head.header(name), "{path}");
        }
        assert_eq!(whole.header("content-length"), whole.body.len().to_string(), "{path}");
    }
    second.refuse().await;
    let banner = gateway.get("/").await?;
    assert_eq!((banner.status.as_u16(), &*banner.text()), (200, "Ollama is running"));
    Ok(())
}

async fn the_description_of_the_api_is_served_to_whoever_has_a_key(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    assert_eq!(gateway.get("/openapi.json").await?.outcome(), (401, "unauthorized".to_owned()));
    for method in [Method::GET, Method::HEAD] {
        let reply = gateway.request(method.clone(), "/openapi.json", "", &[("x-api-key", "alpha")]).await?;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
        assert_eq!(reply.at("/openapi").is_empty(), method == Method::HEAD);
    }
    Ok(())
}

on_every_form! {
    the_description_of_the_api_is_served_to_whoever_has_a_key,
    the_models_of_all_hosts_are_one_list_and_each_comes_once,
    a_model_comes_as_often_as_it_is_loaded,
    a_host_that_does_not_answer_is_left_out_of_a_list,
    a_late_host_is_as_it_was_and_holds_no_list,
    a_late_host_of_which_nothing_is_known_is_waited_for,
    one_model_is_found_on_the_host_that_has_it,
    the_version_is_that_of_a_host_and_the_banner_ollamas,
}
