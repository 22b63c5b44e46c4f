//! The stand-in upstream: the least that answers as Ollama does, on one thread, so that it costs little beside what is
//! measured.

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{http1, process};

const CHAT: [&str; 3] = [
    r#"{"model":"llama3.2","created_at":"2026-11-22T23:00:56.6Z","message":{"role":"assistant","content":"Because air scatters"},"done":false}"#,
    r#"{"model":"llama3.2","created_at":"2026-11-22T23:00:56.7Z","message":{"role":"assistant","content":" blue light more than red."},"done":false}"#,
    r#"{"model":"llama3.2","created_at":"2026-11-22T23:00:56.8Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":200000000,"load_duration":1000000,"prompt_eval_count":26,"prompt_eval_duration":100000000,"eval_count":9,"eval_duration":90000000}"#,
];
const TAGS: &str = r#"{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest"}]}"#;

/// Serves until the parent ends.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        process::announce(listener.local_addr()?)?;
        let (chat, tags): (&'static [u8], &'static [u8]) = (chat().leak(), tags().leak());
        std::thread::spawn(|| {
            process::wait_for_parent();
            std::process::exit(0);
        });
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A connection that fails is noticed by whoever opened it.
            tokio::spawn(async move { connection(stream, chat, tags).await.ok() });
        }
    })
}

async fn connection(mut stream: TcpStream, chat: &[u8], tags: &[u8]) -> Result<()> {
    let mut buffer = Vec::with_capacity(16 << 10);
    while stream.read_buf(&mut buffer).await? > 0 {
        if let Some(is_chat) = http1::request(&buffer)? {
            stream.write_all(if is_chat { chat } else { tags }).await?;
            buffer.clear();
        }
    }
    Ok(())
}

/// One line a chunk, as Ollama streams.
fn chat() -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nDate: Sun, 22 Nov 2026 23:00:56 GMT\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = CHAT.iter().map(|line| format!("{:x}\r\n{line}\n\r\n", line.len() + 1));
    [head.to_owned()]
        .into_iter()
        .chain(chunks)
        .chain(["0\r\n\r\n".to_owned()])
        .collect::<String>()
        .into_bytes()
}

fn tags() -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{TAGS}",
        TAGS.len()
    )
    .into_bytes()
}
