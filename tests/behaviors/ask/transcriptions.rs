//! `POST /v1/audio/transcriptions`: a form with a recording in it, which goes to a host that has the model.

use http::{StatusCode, header};
use paddock_tests::ollama::{Pause, Piece};

use crate::behaviors::{prelude::*, surfaces};

const PATH: &str = "/v1/audio/transcriptions";
const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=\"x y\"");

/// A form as clients write it, with letters that are no text.
fn recording(model: &str) -> Vec<u8> {
    let field = |name: &str, value: &str| {
        format!("--x y\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes()
    };
    let file = b"--x y\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                 Content-Type: audio/wav\r\n\r\nRIFF\x24\x00\xff\xfeWAVE--x y\r\n"
        .to_vec();
    [file, field("language", "en"), field("model", model), b"--x y--\r\n".to_vec()].concat()
}

fn answer(content_type: &'static str, body: &'static str) -> Scripted {
    let mut answer = Scripted::proxy(StatusCode::OK).with_header(header::CONTENT_TYPE, content_type);
    answer.headers.remove(header::CONTENT_LENGTH);
    answer.pieces = vec![Piece { after: Pause::NONE, bytes: body.into() }];
    answer
}

async fn a_recording_goes_as_it_came_to_a_host_that_has_the_model(form: &dyn Form) -> Result<()> {
    let (without, with) = (FakeOllama::start().await?, FakeOllama::start().await?);
    with.has_models(&["gemma3n:latest"]);
    with.answers(PATH, answer("application/json", r#"{"text":"hello"}"#));
    let gateway = form.start(Setup::new([&without, &with]).set("CACHE_MODE", "all")).await?;
    // Hosts are known by then.
    gateway.get("/api/tags").await?;
    for asked in 1..=3 {
        let body = recording("gemma3n");
        let reply = gateway.request(Method::POST, PATH, body.clone(), &[FORM]).await?;
        assert_eq!((reply.status.as_u16(), reply.at("/text")), (200, "hello".to_owned()), "{}", reply.text());
        assert_eq!((reply.header("x-paddock-host"), reply.cache()), ("2", "bypass"));
        assert_eq!(with.count(PATH), asked);
        let sent = with.requests().pop().context("nothing was asked")?;
        assert!(sent.body == body && sent.headers["content-type"] == FORM.1);
    }
    assert_eq!(without.count(PATH), 0);
    let missing = gateway.request(Method::POST, PATH, recording("nosuch"), &[FORM]).await?;
    let words = surfaces::told(PATH, &missing)?;
    assert!(missing.status == 404 && words.contains("'nosuch'"), "{} {words}", missing.status);
    Ok(())
}

async fn a_recording_has_the_limits_of_its_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.answers(PATH, answer("text/plain", "hello"));
    let gateway = form.start(Setup::new([&ollama]).set("OPENAI_BODY_LIMIT", "64KiB")).await?;
    let plain = gateway.request(Method::POST, PATH, recording("llama3.2"), &[FORM]).await?;
    assert_eq!((plain.status.as_u16(), plain.header("content-type")), (200, "text/plain"));
    assert_eq!(plain.text().trim_end(), "hello");
    let long = [recording("llama3.2"), vec![0; 64 << 10]].concat();
    let reply = gateway.request(Method::POST, PATH, long, &[FORM]).await?;
    assert_eq!(reply.outcome(), (413, "body_too_large".to_owned()));
    let headers = [FORM, ("content-encoding", "zstd")];
    let packed = gateway.request(Method::POST, PATH, recording("llama3.2"), &headers).await?;
    assert_eq!(packed.outcome(), (415, "unsupported_encoding".to_owned()));
    let headers = [FORM, ("x-paddock-session", "s")];
    let session = gateway.request(Method::POST, PATH, recording("llama3.2"), &headers).await?;
    assert_eq!(session.outcome(), (400, "session_unsupported".to_owned()));
    let wrong = gateway.get(PATH).await?;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "POST"));
    Ok(())
}

on_every_form! {
    a_recording_goes_as_it_came_to_a_host_that_has_the_model,
    a_recording_has_the_limits_of_its_surface,
}
