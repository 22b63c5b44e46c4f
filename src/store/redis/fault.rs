//! Classifies the error replies of a Redis server by their first word.
//!
//! A platform passes the server's message on; errors of the connection are classified by the platform.

use crate::store::StoreError;

/// The meaning of an error reply. `code` is its first word, such as `OOM` or `MOVED`; `text` is for the operator.
pub fn server_error(code: &str, text: String) -> StoreError {
    match code {
        "MOVED" | "ASK" | "CROSSSLOT" => StoreError::Cluster,
        // It lives, but does nothing for anybody yet, or any more.
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOAUTH" | "WRONGPASS" => {
            StoreError::Unavailable(text)
        }
        _ => StoreError::Refused(text),
    }
}

/// The meaning of an error of which only the text is known, as on Spin: an error reply, or an error of the connection.
pub fn error_text(text: String) -> StoreError {
    match code(&text) {
        Some(code) => server_error(&code, text),
        None => StoreError::Unavailable(text),
    }
}

/// The server's code in the text of the redis crate inside Spin: `OOM: command not allowed` for a code that the crate
/// does not know, `An error was signalled by the server - ReadOnly: ...` for one that it knows.
fn code(text: &str) -> Option<String> {
    if let Some((_, known)) = text.split_once("signalled by the server") {
        let kind = known.trim_start_matches([' ', '-', ':']);
        let kind: String = kind.chars().take_while(char::is_ascii_alphanumeric).collect();
        let code = match kind.trim_end_matches("Error") {
            "BusyLoading" => "LOADING".to_owned(),
            "Response" => "ERR".to_owned(),
            other => other.to_ascii_uppercase(),
        };
        return Some(code);
    }
    let word = text.split([':', ' ']).next().unwrap_or_default();
    let is_code = word.len() > 1 && word.chars().all(|letter| letter.is_ascii_uppercase());
    is_code.then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_a_living_server_is_told_from_a_connection_that_is_gone() {
        let signalled = "An error was signalled by the server";
        for (text, meaning) in [
            ("OOM: command not allowed when used memory > 'maxmemory'.".to_owned(), "refused"),
            (format!("{signalled} - ReadOnly: You can't write against a read only replica."), "refused"),
            (format!("{signalled}- ReadOnly: You can't write against a read only replica."), "refused"),
            (format!("{signalled} - ResponseError: unknown command"), "refused"),
            (format!("{signalled} - NoScriptError: No matching script."), "refused"),
            ("WRONGTYPE: Operation against a key".to_owned(), "refused"),
            ("NOPERM: this user has no permissions".to_owned(), "refused"),
            ("NOAUTH: Authentication required.".to_owned(), "gone"),
            (format!("{signalled} - BusyLoadingError: Redis is loading"), "gone"),
            (format!("{signalled} - ClusterDown: The cluster is down"), "gone"),
            ("broken pipe".to_owned(), "gone"),
            ("Connection refused (os error 111)".to_owned(), "gone"),
            ("Password authentication failed- AuthenticationFailed: WRONGPASS".to_owned(), "gone"),
            (format!("{signalled} - Moved: 15495 10.0.0.1:6379"), "cluster"),
            ("MOVED: 15495 10.0.0.1:6379".to_owned(), "cluster"),
        ] {
            let expected = match meaning {
                "refused" => StoreError::Refused(text.clone()),
                "gone" => StoreError::Unavailable(text.clone()),
                _ => StoreError::Cluster,
            };
            assert_eq!(error_text(text), expected);
        }
    }
}
