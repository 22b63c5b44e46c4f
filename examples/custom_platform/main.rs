//! Brings its own platform: implement the small ports of `paddock::platform`, and the whole service runs.
//!
//!     cargo run --example custom_platform

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod platform;

use anyhow::ensure;
use http::Request;
use http_body_util::{BodyExt, Full};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let service = platform::service()?;
    for expected in ["miss", "hit"] {
        println!("POST /chat");
        let request = Request::post("/chat").body(Full::from(r#"{"message":"Hello?"}"#))?;
        let response = service.handle(request).await;
        let cache = response.headers().get("x-cache").cloned();
        let body = response.into_body().collect().await?.to_bytes();
        println!("  {cache:?} {}", String::from_utf8_lossy(&body));
        ensure!(cache.is_some_and(|cache| cache == expected));
    }
    Ok(())
}
