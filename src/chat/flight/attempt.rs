//! One attempt at one host: send the request, read the streamed answer to its terminator.
//!
//! Only `done:true` makes an answer complete; a clean end of the body proves nothing. Dropping an attempt closes
//! the upstream connection.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use super::Answer;
use crate::{
    fleet::{AttemptFailure, BackendHost},
    host::{Host, UpstreamFailure},
    metrics::Tokens,
    wire::{
        ndjson::Lines,
        ollama::{ChatChunk, ErrorBody},
    },
};

/// The longest line of a stream, in bytes; a whole answer may be one line.
const LINE_LIMIT: usize = 16 << 20;
/// The longest answer, in bytes.
const ANSWER_LIMIT: usize = 16 << 20;
/// How much of an error's body is read, in bytes.
const ERROR_LIMIT: usize = 64 << 10;
/// How many characters of Ollama's words a client is told.
const MESSAGE_LIMIT: usize = 2_000;

/// Asks one host.
pub(super) async fn attempt<H: Host>(
    host: &H,
    backend: &BackendHost,
    body: Bytes,
) -> Result<Answer, AttemptFailure> {
    let length = HeaderValue::from(body.len());
    let request = Request::post(backend.chat().clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, length)
        .body(body)
        .map_err(|error| AttemptFailure::Protocol(error.to_string()))?;
    let response = host.send(request, host.config().limits).await?;
    if response.status().is_success() {
        let mut body = response.into_body();
        let answer = read_answer(&mut body).await?;
        // What follows the terminator is read to its end so that the connection can serve again, but the client
        // need not wait for it.
        host.spawn(async move {
            let _ = Limited::new(body, ERROR_LIMIT).collect().await;
        });
        Ok(answer)
    } else {
        Err(refusal(response).await)
    }
}

async fn read_answer<B>(body: &mut B) -> Result<Answer, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let mut lines = Lines::new(LINE_LIMIT);
    let mut response = String::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        lines.push(piece);
        while let Some(line) =
            lines.next_line().map_err(|error| AttemptFailure::Protocol(error.to_string()))?
        {
            if let Some(tokens) = take(&line, &mut response)? {
                return Ok(Answer { response, tokens });
            }
        }
    }
    let last = lines.finish().map(|line| take(&line, &mut response)).transpose()?.flatten();
    let tokens =
        last.ok_or_else(|| AttemptFailure::Protocol("the answer ended without done:true".to_owned()))?;
    Ok(Answer { response, tokens })
}

/// Adds one line to the answer; gives the counts when it was the last.
fn take(line: &[u8], response: &mut String) -> Result<Option<Tokens>, AttemptFailure> {
    let chunk: ChatChunk<'_> = serde_json::from_slice(line)
        .map_err(|_| AttemptFailure::Protocol("a line of the answer is no chat chunk".to_owned()))?;
    if let Some(error) = chunk.error {
        return Err(AttemptFailure::Failed { message: shorten(&error) });
    }
    if response.len() + chunk.message.content.len() > ANSWER_LIMIT {
        return Err(AttemptFailure::Protocol("the answer is too long".to_owned()));
    }
    response.push_str(&chunk.message.content);
    Ok(chunk.done.then_some(Tokens { prompt: chunk.prompt_eval_count, completion: chunk.eval_count }))
}

/// What a head that is no success means, in Ollama's own words where it gives any.
async fn refusal<B>(response: Response<B>) -> AttemptFailure
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after =
        retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let body = Limited::new(response.into_body(), ERROR_LIMIT).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = serde_json::from_slice(&body)
        .map_or_else(|_| status.to_string(), |ErrorBody { error }| shorten(&error));
    AttemptFailure::of_status(status, message, retry_after)
}

fn shorten(words: &str) -> String {
    words.chars().take(MESSAGE_LIMIT).collect()
}
