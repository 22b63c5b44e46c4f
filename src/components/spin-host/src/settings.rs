//! Settings from Spin's variables.

use futures::future::join_all;
use paddock::config::settings::{Deployment, SETTINGS, Settings};
use spin_sdk::variables;

/// The values of all variables that the manifest gives this component.
pub(crate) struct SpinSettings(Vec<(&'static str, String)>);

impl SpinSettings {
    /// Reads every setting. A variable that the manifest does not give to this component is not set: each component
    /// gets only what it needs.
    pub(crate) async fn read() -> Self {
        let settings = SETTINGS.iter().filter(|setting| setting.exists_in(Deployment::Spin));
        let reads = settings
            .map(|setting| async { Some((setting.name, variables::get(setting.variable()).await.ok()?)) });
        Self(join_all(reads).await.into_iter().flatten().collect())
    }
}

impl Settings for SpinSettings {
    fn value(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }
}
