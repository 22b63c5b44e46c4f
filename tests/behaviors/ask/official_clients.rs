//! Programs that use an official client and are pointed at the gateway instead of Ollama.

use anyhow::Context as _;
use paddock_tests::clients::{OfficialClient, Releases};

use crate::behaviors::prelude::*;

async fn works(form: &dyn Form, client: OfficialClient, releases: Releases) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let url = gateway.url().context("this form does not listen")?;
    client.check(releases, &url).await?;
    Ok(())
}

async fn the_official_ollama_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::Ollama, Releases::Newest).await
}

async fn the_official_openai_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::OpenAi, Releases::Newest).await
}

async fn an_earlier_official_openai_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::OpenAi, Releases::Earlier).await
}

async fn the_official_anthropic_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::Anthropic, Releases::Newest).await
}

async fn an_earlier_official_anthropic_client_works(form: &dyn Form) -> Result<()> {
    works(form, OfficialClient::Anthropic, Releases::Earlier).await
}

over_http! {
    the_official_ollama_client_works,
    the_official_openai_client_works,
    an_earlier_official_openai_client_works,
    the_official_anthropic_client_works,
    an_earlier_official_anthropic_client_works,
}
