//! Programs that use an official client and are pointed at the gateway instead of Ollama.

use anyhow::Context as _;
use paddock_tests::clients::OfficialClient;

use crate::behaviors::prelude::*;

async fn works(form: &dyn Form, client: OfficialClient) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let url = gateway.url().context("this form does not listen")?;
    client.check(&url).await?;
    Ok(())
}

async fn the_official_ollama_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::Ollama).await
}

async fn the_official_openai_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::OpenAi).await
}

async fn the_official_anthropic_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::Anthropic).await
}

over_http! {
    the_official_ollama_client_works,
    the_official_openai_client_works,
    the_official_anthropic_client_works,
}
