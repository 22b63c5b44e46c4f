//! Bodies that are packed with Zstandard: taken where Ollama takes them, within the same limits.

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::behaviors::{prelude::*, surfaces};

/// Where Ollama unpacks.
const UNPACKED: [(&str, &str); 5] = [
    ("/v1/chat/completions", "OPENAI_BODY_LIMIT"),
    ("/v1/completions", "OPENAI_BODY_LIMIT"),
    ("/v1/embeddings", "OPENAI_BODY_LIMIT"),
    ("/v1/responses", "OPENAI_BODY_LIMIT"),
    ("/v1/messages", "ANTHROPIC_BODY_LIMIT"),
];

fn packed(content: &[u8]) -> Vec<u8> {
    compress_to_vec(content, CompressionLevel::Fastest)
}

async fn a_packed_question_is_the_same_question(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MODE", "all")).await?;
    let plain = surfaces::question("llama3.2").to_string();
    let whole = packed(plain.as_bytes());
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    let (begin, end) = plain.split_at(20);
    let frames = [packed(begin.as_bytes()), skippable, packed(end.as_bytes()), packed(b"")].concat();
    for (path, _) in UNPACKED {
        let first = gateway.request(Method::POST, path, plain.clone(), &[]).await?;
        assert_eq!((first.status.as_u16(), first.cache()), (200, "miss"), "{path}: {}", first.text());
        for (body, coding) in [
            (Payload::from(whole.clone()), "zstd"),
            (Payload::from(frames.clone()), "ZSTD"),
            (
                Payload::Chunked(frames.chunks(7).map(bytes::Bytes::copy_from_slice).collect()),
                "identity, zstd",
            ),
        ] {
            let reply = gateway.request(Method::POST, path, body, &[("content-encoding", coding)]).await?;
            assert_eq!(
                (reply.status.as_u16(), reply.cache()),
                (200, "hit"),
                "{path} {coding}: {}",
                reply.text()
            );
        }
        // What goes upstream is what was packed.
        let headers = [("content-encoding", "zstd"), ("cache-control", "no-cache")];
        let reply = gateway.request(Method::POST, path, whole.clone(), &headers).await?;
        assert_eq!((reply.status.as_u16(), reply.cache()), (200, "miss"), "{path}: {}", reply.text());
        let asked = surfaces::questions(&ollama).pop().context("nothing was asked")?;
        assert_eq!(String::from_utf8_lossy(&asked.body), plain, "{path}");
        assert!(!asked.headers.contains_key("content-encoding"), "{path}");
        assert_eq!(asked.headers["content-length"], plain.len().to_string().as_str(), "{path}");
    }
    Ok(())
}

async fn a_packed_body_that_is_damaged_is_400_on_each_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let plain = surfaces::question("llama3.2").to_string();
    let whole = packed(plain.as_bytes());
    let cut = whole.get(..whole.len() - 3).context("too short")?.to_vec();
    let mut trailing = whole.clone();
    trailing.extend_from_slice(b"{}");
    // A window of 16 MiB: twice of what is taken.
    let wide = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x70, 0x01, 0x00, 0x00];
    for (path, _) in UNPACKED {
        for body in
            [cut.clone(), trailing.clone(), plain.clone().into_bytes(), wide.clone(), b"(\xb5/\xfd".to_vec()]
        {
            let reply = gateway.request(Method::POST, path, body, &[("content-encoding", "zstd")]).await?;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
            assert!(surfaces::told(path, &reply)?.contains("zstd"), "{}", reply.text());
        }
    }
    assert_eq!(surfaces::questions(&ollama).len(), 0);
    Ok(())
}

/// A frame of runs of 128 KiB: four bytes each, a gigabyte in all.
fn bomb() -> Vec<u8> {
    let run = |is_last: u32| (131_072_u32 << 3 | 1 << 1 | is_last).to_le_bytes();
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x68];
    for number in 1..=8192 {
        let [low, middle, high, _] = run(u32::from(number == 8192));
        frame.extend([low, middle, high, b' ']);
    }
    frame
}

async fn a_packed_body_counts_by_what_it_unpacks_to(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let limits = ["OPENAI_BODY_LIMIT", "ANTHROPIC_BODY_LIMIT"];
    let setup = limits.iter().fold(Setup::new([&ollama]), |setup, name| setup.set(name, "64KiB"));
    let gateway = form.start(setup).await?;
    let padded = |length: usize| {
        let plain = surfaces::question("llama3.2").to_string();
        packed((plain.clone() + &" ".repeat(length - plain.len())).as_bytes())
    };
    for (path, setting) in UNPACKED {
        let headers = [("content-encoding", "zstd")];
        let fits = gateway.request(Method::POST, path, padded(64 << 10), &headers).await?;
        assert_eq!(fits.status, 200, "{path}: {}", fits.text());
        for body in [padded((64 << 10) + 1), bomb()] {
            let reply = gateway.request(Method::POST, path, body, &headers).await?;
            assert_eq!(reply.status, 413, "{path}: {}", reply.text());
            assert!(surfaces::told(path, &reply)?.contains(setting), "{}", reply.text());
        }
    }
    Ok(())
}

async fn every_other_packing_is_415_and_says_what_is_taken(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let body = packed(surfaces::question("llama3.2").to_string().as_bytes());
    for (path, _) in surfaces::QUESTIONS {
        let takes_zstd = UNPACKED.iter().any(|(unpacked, _)| *unpacked == path);
        for coding in ["gzip", "deflate", "br", "zstd, gzip", "zstd, zstd", "zstd"] {
            if coding == "zstd" && takes_zstd {
                continue;
            }
            let reply =
                gateway.request(Method::POST, path, body.clone(), &[("content-encoding", coding)]).await?;
            assert_eq!(reply.status, 415, "{path} {coding}: {}", reply.text());
            assert!(surfaces::told(path, &reply)?.contains("zstd"), "{}", reply.text());
        }
    }
    assert_eq!(surfaces::questions(&ollama).len(), 0);
    Ok(())
}

on_every_form! {
    a_packed_question_is_the_same_question,
    a_packed_body_that_is_damaged_is_400_on_each_surface,
    a_packed_body_counts_by_what_it_unpacks_to,
    every_other_packing_is_415_and_says_what_is_taken,
}
