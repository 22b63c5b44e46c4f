//! Keys where the service itself answers for every path; on Spin an unknown path reaches no component.

use anyhow::Result;
use paddock_tests::{gateway::Form as _, ollama::FakeOllama, setup::Setup};

#[tokio::test]
async fn without_a_key_nobody_learns_which_paths_there_are() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = crate::EMBEDDED.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    for path in ["/unknown", "/chat", "/"] {
        assert_eq!(gateway.get(path).await?.status, 401, "{path}");
    }
    Ok(())
}
