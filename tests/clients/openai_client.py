"""OpenAI's Python client against BASE_URL/v1: `python openai_client.py BASE_URL`.

Whoever answers has the model llama3.2, echoes what it is told, and calls the first tool that it is given.
"""

import json
import sys
from importlib.metadata import version

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

MODEL = "llama3.2"
client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", max_retries=0)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Answer(BaseModel):
    answer: str


def said(text):
    return [{"role": "user", "content": text}]


def chat():
    reply = client.chat.completions.create(model=MODEL, messages=said("hello"))
    assert isinstance(reply, ChatCompletion) and reply.object == "chat.completion"
    (choice,) = reply.choices
    assert choice.message.content.startswith("echo of hello #"), reply
    assert (reply.model, choice.message.role, choice.finish_reason) == (MODEL, "assistant", "stop"), reply
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0, reply


def content_in_parts():
    parts = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]
    reply = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
    assert reply.choices[0].message.content.startswith("echo of in parts #"), reply


def streamed_chat():
    chunks = list(client.chat.completions.create(model=MODEL, messages=said("a streamed hello"), stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("echo of a streamed hello #"), text
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"], chunks
    assert all(chunk.usage is None for chunk in chunks), chunks


def streamed_chat_in_a_session():
    headers = {"x-paddock-session": "openai"}
    messages = said("a remembered hello")
    chunks = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True, extra_headers=headers))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("echo of a remembered hello #"), text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"], chunks


def streamed_usage():
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=said("count"), stream=True, stream_options=options)
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0, chunks[-1]


def is_weather_of_paris(call):
    assert isinstance(call, ChatCompletionMessageFunctionToolCall), call
    assert call.id and call.function.name == "get_weather", call
    assert json.loads(call.function.arguments) == {"city": "Paris"}, call


def tool_call():
    reply = client.chat.completions.create(model=MODEL, messages=said("the weather?"), tools=[WEATHER])
    assert reply.choices[0].finish_reason == "tool_calls", reply
    (call,) = reply.choices[0].message.tool_calls
    is_weather_of_paris(call)


def streamed_tool_call():
    with client.chat.completions.stream(model=MODEL, messages=said("the weather now?"), tools=[WEATHER]) as stream:
        reply = stream.get_final_completion()
    assert reply.choices[0].finish_reason == "tool_calls", reply
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == "get_weather", call
    assert json.loads(call.function.arguments) == {"city": "Paris"}, call


def structured_output():
    reply = client.chat.completions.parse(model=MODEL, messages=said("as JSON"), response_format=Answer)
    assert reply.choices[0].message.parsed == Answer(answer="echo"), reply
    kind = {"type": "json_object"}
    reply = client.chat.completions.create(model=MODEL, messages=said("as any JSON"), response_format=kind)
    assert json.loads(reply.choices[0].message.content) == {"answer": "echo"}, reply


def completions():
    reply = client.completions.create(model=MODEL, prompt="once")
    assert reply.choices[0].text.startswith("echo of once #") and reply.usage.total_tokens > 0, reply


def streamed_completions():
    chunks = list(client.completions.create(model=MODEL, prompt="once more", stream=True))
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text.startswith("echo of once more #") and chunks[-1].choices[0].finish_reason == "stop", chunks


def embeddings():
    # The client asks for base64 unless it is told otherwise.
    reply = client.embeddings.create(model=MODEL, input=["a", "b"])
    assert [entry.index for entry in reply.data] == [0, 1], reply
    plain = client.embeddings.create(model=MODEL, input="a", encoding_format="float").data[0].embedding
    assert all(abs(one - two) < 1e-6 for one, two in zip(reply.data[0].embedding, plain, strict=True)), plain
    assert len(client.embeddings.create(model=MODEL, input="a", dimensions=4).data[0].embedding) == 4


def responses():
    reply = client.responses.create(model=MODEL, input="respond")
    assert reply.output_text.startswith("echo of respond #") and reply.status == "completed", reply
    assert reply.usage.total_tokens > 0, reply


def streamed_responses():
    with client.responses.stream(model=MODEL, input="respond again") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        reply = stream.get_final_response()
    assert text.startswith("echo of respond again #") and reply.output_text == text, reply


def models():
    names = [model.id for model in client.models.list()]
    assert "llama3.2:latest" in names, names
    assert client.models.retrieve("llama3.2:latest").id == "llama3.2:latest"


def refused(kind, ask):
    try:
        ask()
    except kind as error:
        assert error.body["message"] and error.type, error
    else:
        raise AssertionError(f"not refused with {kind}")


def missing_model():
    chat, hello = client.chat.completions.create, said("hello")
    refused(openai.NotFoundError, lambda: chat(model="nosuch", messages=hello))
    refused(openai.NotFoundError, lambda: chat(model="nosuch", messages=hello, stream=True))
    refused(openai.NotFoundError, lambda: client.embeddings.create(model="nosuch", input="hello"))
    refused(openai.NotFoundError, lambda: client.models.retrieve("nosuch"))


def bad_request():
    refused(openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=[]))


CHECKS = [
    chat,
    content_in_parts,
    streamed_chat,
    streamed_chat_in_a_session,
    streamed_usage,
    tool_call,
    streamed_tool_call,
    structured_output,
    completions,
    streamed_completions,
    embeddings,
    responses,
    streamed_responses,
    models,
    missing_model,
    bad_request,
]
for check in CHECKS:
    check()
print("ok", len(CHECKS), "checks of", version("openai"))
