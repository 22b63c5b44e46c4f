//! Brings its own host: implement the small ports of `paddock::host`, and every handler runs.
//!
//!     cargo run --example custom_host

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod host;

use anyhow::ensure;
use http::Request;
use http_body_util::{BodyExt, Full};

use host::TokioHost;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let host = TokioHost::new()?;
    for expected in ["miss", "hit"] {
        println!("POST /chat");
        let request = Request::post("/chat").body(Full::from(r#"{"message":"Hello?"}"#))?;
        let response = paddock::handle(&host, request).await;
        let cache = response.headers().get("x-cache").cloned();
        let body = response.into_body().collect().await?.to_bytes();
        println!("  {cache:?} {}", String::from_utf8_lossy(&body));
        ensure!(cache.is_some_and(|cache| cache == expected));
    }
    Ok(())
}
