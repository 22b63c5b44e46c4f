// Reads a corpus of odd requests with Go's own encoding/json, as Ollama does, and prints what it read, one request a line.
// Paddock's reading is held against it (src/handlers/ask/relay/go_reading.rs), so that the tests need no Go. Anew:
//
//	cd tests/go-reading && go run . > ../fixtures/go-reading.jsonl
//
// Ollama decodes the first JSON value of a body (gin's ShouldBindJSON), and looks at nothing behind it.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"unicode/utf8"
)

// What was read of one request.
type reading struct {
	Surface string `json:"surface"`
	Body    any    `json:"body"`
	// Whether Ollama takes it; what it refuses is not compared further.
	Ok bool `json:"ok"`
	// "" for none.
	Model    string         `json:"model,omitempty"`
	Stream   *bool          `json:"stream,omitempty"`
	Options  map[string]any `json:"options,omitempty"`
	Messages []said         `json:"messages,omitempty"`
	System   *string        `json:"system,omitempty"`
}

type said struct {
	Role string `json:"role"`
	// Only where it is one text.
	Text *string `json:"text,omitempty"`
}

type name struct {
	Name      any    `json:"name"`
	Canonical string `json:"canonical"`
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for _, text := range names() {
		must(encoder.Encode(name{readable(text), canonical(text)}))
	}
	for _, surface := range surfaces {
		for _, body := range bodies(surface) {
			must(encoder.Encode(read(surface.path, body)))
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A body as text where it is one, else in base64; what is repeated many times is said once.
func readable(body string) any {
	if !utf8.ValidString(body) {
		return map[string]string{"base64": base64.StdEncoding.EncodeToString([]byte(body))}
	}
	return body
}

func decode(body string, into any) bool {
	return json.NewDecoder(bytes.NewReader([]byte(body))).Decode(into) == nil
}

func read(path string, body string) reading {
	found := reading{Surface: path, Body: readable(body)}
	switch path {
	case "/api/chat":
		var request chatRequest
		found.Ok = decode(body, &request)
		found.Model, found.Stream, found.Options = request.Model, unless(request.Stream, true), options(request.Options)
		for index := range request.Messages {
			message := &request.Messages[index]
			found.Messages = append(found.Messages, said{message.Role, &message.Content})
		}
	case "/api/generate":
		var request generateRequest
		found.Ok = decode(body, &request)
		found.Model, found.Stream, found.Options = request.Model, unless(request.Stream, true), options(request.Options)
	case "/api/embed":
		var request embedRequest
		found.Ok = decode(body, &request)
		found.Model, found.Options = request.Model, options(request.Options)
	case "/api/embeddings":
		var request embeddingsRequest
		found.Ok = decode(body, &request)
		found.Model, found.Options = request.Model, options(request.Options)
	case "/api/show":
		var request showRequest
		found.Ok = decode(body, &request)
		found.Model = or(request.Model, request.Name)
	case "/api/pull":
		var request pullRequest
		found.Ok = decode(body, &request)
		found.Model, found.Stream = or(request.Model, request.Name), unless(request.Stream, true)
	case "/v1/chat/completions":
		var request openaiChatRequest
		found.Ok = decode(body, &request)
		found.Model, found.Stream = request.Model, &request.Stream
		for _, message := range request.Messages {
			found.Messages = append(found.Messages, said{strings.ToLower(message.Role), text(message.Content)})
		}
	case "/v1/completions":
		var request openaiCompletionRequest
		found.Ok = decode(body, &request)
		found.Model, found.Stream = request.Model, &request.Stream
	case "/v1/embeddings":
		var request openaiEmbedRequest
		found.Ok = decode(body, &request)
		found.Model = request.Model
	case "/v1/responses":
		var request responsesRequest
		found.Ok = decode(body, &request)
		found.Model, found.Stream = request.Model, unless(request.Stream, false)
	case "/v1/messages":
		var request anthropicRequest
		found.Ok = decode(body, &request)
		found.Model, found.Stream, found.System = request.Model, &request.Stream, system(request.System)
		for _, message := range request.Messages {
			var only *string
			if len(message.Content) == 1 {
				only = message.Content[0].Text
			}
			found.Messages = append(found.Messages, said{strings.ToLower(message.Role), only})
		}
	default:
		panic(path)
	}
	if !found.Ok {
		return reading{Surface: found.Surface, Body: found.Body}
	}
	return found
}

func unless(flag *bool, otherwise bool) *bool {
	if flag != nil {
		return flag
	}
	return &otherwise
}

// The options that decide how a model is loaded or whether its answer repeats, as FromMap reads them.
func options(given map[string]any) map[string]any {
	known := map[string]any{}
	for _, name := range []string{
		"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "num_predict", "seed",
	} {
		if number, is := given[name].(float64); is && number > -1e15 && number < 1e15 {
			known[name] = int64(number)
		}
	}
	if flag, is := given["use_mmap"].(bool); is {
		known["use_mmap"] = flag
	}
	return known
}

func text(content any) *string {
	if text, is := content.(string); is {
		return &text
	}
	return nil
}

func system(given any) *string {
	switch system := given.(type) {
	case string:
		return &system
	case []any:
		var all strings.Builder
		for _, block := range system {
			if block, is := block.(map[string]any); is && block["type"] == "text" {
				if text, is := block["text"].(string); is {
					all.WriteString(text)
				}
			}
		}
		text := all.String()
		return &text
	}
	return nil
}
