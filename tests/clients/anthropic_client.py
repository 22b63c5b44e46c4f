"""Anthropic's Python client against BASE_URL: `python anthropic_client.py BASE_URL`.

Whoever answers has the model llama3.2, echoes what it is told, and calls the first tool that it is given.
"""

import sys
from importlib.metadata import version

import anthropic

MODEL = "llama3.2"
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="unused", max_retries=0)
WEATHER = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def said(text):
    return [{"role": "user", "content": text}]


def ask(text="hello", model=MODEL, **more):
    return client.messages.create(**{"model": model, "max_tokens": 64, "messages": said(text), **more})


def message():
    reply = ask()
    assert isinstance(reply, anthropic.types.Message) and (reply.type, reply.role) == ("message", "assistant")
    (block,) = reply.content
    assert isinstance(block, anthropic.types.TextBlock) and block.text.startswith("echo of hello #"), reply
    assert (reply.model, reply.stop_reason) == (MODEL, "end_turn"), reply
    assert reply.usage.input_tokens > 0 and reply.usage.output_tokens > 0, reply


def content_in_blocks():
    blocks = [{"type": "text", "text": "in "}, {"type": "text", "text": "blocks"}]
    reply = ask(messages=[{"role": "user", "content": blocks}], system="Be brief.")
    assert reply.content[0].text.startswith("echo of in blocks #"), reply


def streamed_message():
    with client.messages.stream(model=MODEL, max_tokens=64, messages=said("a streamed hello")) as stream:
        parts = list(stream.text_stream)
        reply = stream.get_final_message()
    text = "".join(parts)
    assert len(parts) > 2 and text.startswith("echo of a streamed hello #"), parts
    assert reply.content[0].text == text and reply.stop_reason == "end_turn", reply
    assert reply.usage.output_tokens > 0, reply


def raw_events():
    kinds = [event.type for event in ask("events", stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"], kinds
    assert set(kinds[2:-3]) == {"content_block_delta"}, kinds
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds


def is_weather_of_paris(reply):
    (block,) = reply.content
    assert isinstance(block, anthropic.types.ToolUseBlock) and block.id, reply
    assert (block.name, block.input) == ("get_weather", {"city": "Paris"}), reply
    assert reply.stop_reason == "tool_use", reply


def tool_use():
    is_weather_of_paris(ask("the weather?", tools=[WEATHER]))


def streamed_message_in_a_session():
    headers = {"x-paddock-session": "anthropic"}
    messages = said("a remembered hello")
    with client.messages.stream(model=MODEL, max_tokens=64, messages=messages, extra_headers=headers) as stream:
        text = "".join(stream.text_stream)
        reply = stream.get_final_message()
    assert text.startswith("echo of a remembered hello #") and reply.stop_reason == "end_turn", reply


def streamed_tool_use():
    question = said("the weather now?")
    with client.messages.stream(model=MODEL, max_tokens=64, messages=question, tools=[WEATHER]) as stream:
        is_weather_of_paris(stream.get_final_message())


def refused(kind, name, **more):
    try:
        ask(**more)
    except kind as error:
        assert error.body["type"] == "error" and error.body["error"]["type"] == name, error.body
    else:
        raise AssertionError(f"not refused with {kind}")


def missing_model():
    refused(anthropic.NotFoundError, "not_found_error", model="nosuch")
    refused(anthropic.NotFoundError, "not_found_error", model="nosuch", stream=True)


def bad_request():
    refused(anthropic.BadRequestError, "invalid_request_error", max_tokens=0)


CHECKS = [
    message,
    content_in_blocks,
    streamed_message,
    streamed_message_in_a_session,
    raw_events,
    tool_use,
    streamed_tool_use,
    missing_model,
    bad_request,
]
for check in CHECKS:
    check()
print("ok", len(CHECKS), "checks of", version("anthropic"))
