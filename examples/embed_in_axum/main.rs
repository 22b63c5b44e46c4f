//! Serves Paddock under an axum router, beside routes of your own.
//!
//!     cargo run --example embed_in_axum

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "../custom_platform/platform.rs"]
mod platform;

use anyhow::ensure;
use axum::{Router, body::Body, extract::Request, routing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let service = platform::service()?;
    let router =
        Router::new().route("/", routing::get(async || "my own route")).fallback(move |request: Request| {
            let service = service.clone();
            async move { service.handle(request).await.map(Body::new) }
        });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    for (path, expected) in [("/", "200"), ("/livez", "200"), ("/health", "200"), ("/nowhere", "404")] {
        println!("GET {path}");
        let mut client = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        println!("{answer}\n");
        ensure!(answer.starts_with(&format!("HTTP/1.1 {expected}")));
    }
    server.abort();
    Ok(())
}
