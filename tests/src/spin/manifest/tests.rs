//! What the manifest reader accepts and refuses.

use super::*;

const SAMPLE: &str = r#"
spin_manifest_version = 2
[application]
name = "sample"
version = "0.1.0"
[variables]
ollama_host = { default = "http://127.0.0.1:11434" }
ollama_host2 = { default = "" }
redis_host = { default = "127.0.0.1" }
redis_port = { default = "6379" }
api_key = { required = true, secret = true, description = "who may call" }
[[trigger.http]]
route = "/api/chat"
component = "chat"
[[trigger.http]]
route = "/..."
static_response = { status_code = 404, headers = { content-type = "text/plain" }, body = "not found" }
[component.chat]
source = "target/wasm32-wasip2/release/chat.wasm"
allowed_outbound_hosts = ["{{ ollama_host }}", "{{ ollama_host2 }}", "redis://{{ redis_host }}:{{ redis_port }}"]
[component.chat.variables]
ollama_host = "{{ ollama_host }}"
redis_url = "redis://{{ redis_host }}:{{ redis_port }}"
api_key = "{{ api_key }}"
[component.chat.build]
command = "cargo build --target wasm32-wasip2 --release"
watch = ["src/**/*.rs"]
"#;

fn refused(from: &str, to: &str) -> String {
    assert!(SAMPLE.contains(from), "{from:?} is not in the sample");
    format!("{:#}", Manifest::parse(&SAMPLE.replace(from, to)).expect_err(to))
}

fn pairs(pairs: &[(&str, &str)]) -> Values {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_sample_is_read() {
    let manifest = Manifest::parse(SAMPLE).unwrap();
    assert_eq!(manifest.routes().len(), 2);
    assert!(manifest.variables["api_key"].secret);
    let values = manifest.resolve(&pairs(&[("api_key", "k"), ("redis_port", "1")])).unwrap();
    assert_eq!(
        (values["api_key"].as_str(), values["redis_port"].as_str(), values["ollama_host2"].as_str()),
        ("k", "1", "")
    );
}

#[test]
fn a_required_variable_needs_a_value_and_an_override_a_declaration() {
    let manifest = Manifest::parse(SAMPLE).unwrap();
    assert!(manifest.resolve(&Values::new()).unwrap_err().to_string().contains("api_key"));
    let error = manifest.resolve(&pairs(&[("api_key", "k"), ("redis_prot", "1")])).unwrap_err();
    assert!(error.to_string().contains("redis_prot"), "{error}");
}

#[test]
fn what_spin_refuses_is_refused() {
    assert!(refused("spin_manifest_version = 2", "spin_manifest_version = 1").contains("must be 2"));
    assert!(refused("version = \"0.1.0\"", "verison = \"0.1.0\"").contains("unknown field"));
    assert!(refused("secret = true", "secrets = true").contains("unknown field"));
    assert!(
        refused("route = \"/api/chat\"", "route = \"/api/chat\"\nmethod = \"POST\"")
            .contains("unknown field")
    );
    assert!(refused("source = ", "allowed_hosts = []\nsource = ").contains("unknown field"));
    assert!(refused("watch = [", "watched = [").contains("unknown field"));
    assert!(refused("ollama_host2 = {", "ollama_host_2 = {").contains("start with an ASCII letter"));
    assert!(
        refused("\napi_key = \"{{ api_key }}\"", "\napi_key = \"{{ apikey }}\"").contains("unknown variable")
    );
    assert!(
        refused("ollama_host2 = { default = \"\" }", "ollama_host2 = {}").contains("`required` OR `default`")
    );
    assert!(
        refused("required = true,", "required = true, default = \"x\",").contains("`required` OR `default`")
    );
    assert!(refused("component = \"chat\"", "component = \"chta\"").contains("no component"));
    assert!(refused("component = \"chat\"", "").contains("either component or static_response"));
    assert!(refused("11434\" }", "11434/api\" }").contains("malformed"));
    assert!(refused("\"{{ ollama_host }}\",", "\"127.0.0.1:11434\",").contains("malformed"));
}
