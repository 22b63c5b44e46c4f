"""Ollama's own Python client against BASE_URL: `python ollama_client.py BASE_URL`.

Whoever answers has the model llama3.2, echoes what it is told, and calls the first tool that it is given.
"""

import sys
from importlib.metadata import version

import ollama

MODEL = "llama3.2"
client = ollama.Client(host=sys.argv[1])


def said(text):
    return [{"role": "user", "content": text}]


def get_weather(city: str) -> str:
    """The weather of a city."""
    return city


def chat():
    reply = client.chat(MODEL, messages=said("hello"))
    assert isinstance(reply, ollama.ChatResponse)
    assert reply.message.role == "assistant"
    assert reply.message.content.startswith("echo of hello #"), reply
    assert (reply.model, reply.done, reply.done_reason) == (MODEL, True, "stop"), reply
    assert reply.prompt_eval_count > 0 and reply.eval_count > 0, reply


def streamed_chat():
    parts = list(client.chat(MODEL, messages=said("a streamed hello"), stream=True))
    text = "".join(part.message.content for part in parts)
    assert text.startswith("echo of a streamed hello #"), text
    assert len(parts) > 2 and [part.done for part in parts[:-1]] == [False] * (len(parts) - 1), parts
    assert parts[-1].done and parts[-1].eval_count > 0, parts[-1]


def streamed_chat_in_a_session():
    in_session = ollama.Client(host=sys.argv[1], headers={"x-paddock-session": "ollama"})
    parts = list(in_session.chat(MODEL, messages=said("a remembered hello"), stream=True))
    text = "".join(part.message.content for part in parts)
    assert text.startswith("echo of a remembered hello #"), text
    assert parts[-1].done and parts[-1].eval_count > 0, parts[-1]


def tool_call():
    reply = client.chat(MODEL, messages=said("the weather?"), tools=[get_weather])
    (call,) = reply.message.tool_calls
    assert isinstance(call, ollama.Message.ToolCall)
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"}), call
    assert get_weather(**call.function.arguments) == "Paris"


def streamed_tool_call():
    parts = list(client.chat(MODEL, messages=said("the weather now?"), tools=[get_weather], stream=True))
    (call,) = [call for part in parts for call in part.message.tool_calls or []]
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"}), call
    assert parts[-1].done


def tool_result():
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    messages = said("the weather?") + [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "sunny"},
    ]
    reply = client.chat(MODEL, messages=messages, tools=[get_weather])
    assert reply.message.content.startswith("echo of sunny #") and not reply.message.tool_calls, reply


def structured_output():
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    for wanted in (schema, "json"):
        reply = client.chat(MODEL, messages=said("as JSON"), format=wanted)
        assert reply.message.content == '{"answer":"echo"}', reply


def generate():
    reply = client.generate(MODEL, prompt="once")
    assert isinstance(reply, ollama.GenerateResponse)
    assert reply.response.startswith("echo of once #") and reply.done, reply
    assert reply.eval_count > 0, reply


def streamed_generate():
    parts = list(client.generate(MODEL, prompt="once more", stream=True))
    text = "".join(part.response for part in parts)
    assert text.startswith("echo of once more #") and parts[-1].done, text


def embed():
    reply = client.embed(MODEL, input=["a", "b"])
    assert isinstance(reply, ollama.EmbedResponse)
    assert len(reply.embeddings) == 2 and reply.embeddings[0] != reply.embeddings[1], reply
    assert reply.embeddings[0] == client.embed(MODEL, input="a").embeddings[0]
    assert len(client.embed(MODEL, input="a", dimensions=4).embeddings[0]) == 4


def embeddings():
    assert len(client.embeddings(MODEL, prompt="a").embedding) > 0


def models():
    reply = client.list()
    assert "llama3.2:latest" in [model.model for model in reply.models], reply
    assert all(model.size > 0 and model.modified_at for model in reply.models), reply


def refused(status, ask):
    try:
        ask()
    except ollama.ResponseError as error:
        assert error.status_code == status and error.error, error
    else:
        raise AssertionError(f"not refused with {status}")


def missing_model():
    refused(404, lambda: client.chat("nosuch", messages=said("hello")))
    refused(404, lambda: list(client.chat("nosuch", messages=said("hello"), stream=True)))
    refused(404, lambda: client.generate("nosuch", prompt="hello"))
    refused(404, lambda: client.embed("nosuch", input="hello"))


def bad_request():
    refused(400, lambda: client.chat("a b c", messages=said("hello")))


CHECKS = [
    chat,
    streamed_chat,
    streamed_chat_in_a_session,
    tool_call,
    streamed_tool_call,
    tool_result,
    structured_output,
    generate,
    streamed_generate,
    embed,
    embeddings,
    models,
    missing_model,
    bad_request,
]
for check in CHECKS:
    check()
print("ok", len(CHECKS), "checks of", version("ollama"))
