use super::*;

#[test]
fn a_missing_model_names_what_there_is_and_how_to_pull() {
    let error = Error::ModelNotFound {
        model: "qwen3".into(),
        nearest: vec!["llama3.2:latest".into(), "smollm2:135m".into()],
    };
    assert_eq!(
        error.to_string(),
        "model 'qwen3' not found: no Ollama host has it; the nearest names are: llama3.2:latest, smollm2:135m; \
         to add it: ollama pull qwen3"
    );
}

#[test]
fn what_upstream_said_is_told_to_the_client_but_not_to_the_log() {
    let status = StatusCode::BAD_REQUEST;
    let error = Error::UpstreamRejected { status, message: "secret prompt".into(), original: None };
    assert!(error.to_string().contains("secret prompt"));
    assert_eq!(error.detail().as_deref(), Some("upstream answered 400 Bad Request"));
}
