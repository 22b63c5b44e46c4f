package main

import "strings"

// An endpoint, and what every question to it has besides its model.
type surface struct {
	path, question string
	streams        bool
	options        bool
	messages       bool
}

var surfaces = []surface{
	{path: "/api/chat", question: `"messages":[{"role":"user","content":"hi"}]`, streams: true, options: true, messages: true},
	{path: "/api/generate", question: `"prompt":"hi"`, streams: true, options: true},
	{path: "/api/embed", question: `"input":"hi"`, options: true},
	{path: "/api/embeddings", question: `"prompt":"hi"`, options: true},
	{path: "/api/show", question: `"verbose":true`},
	{path: "/api/pull", question: `"insecure":false`, streams: true},
	{path: "/v1/chat/completions", question: `"messages":[{"role":"user","content":"hi"}]`, streams: true, messages: true},
	{path: "/v1/completions", question: `"prompt":"hi"`, streams: true},
	{path: "/v1/embeddings", question: `"input":"hi"`},
	{path: "/v1/responses", question: `"input":"hi"`, streams: true},
	{path: "/v1/messages", question: `"max_tokens":9,"messages":[{"role":"user","content":"hi"}]`, streams: true, messages: true},
}

// What stands in place of the model's member: spellings of its name, its value, and how often it comes.
var models = []string{
	`"model":"a"`, `"MODEL":"a"`, `"mOdEl":"a"`, `"\u006d\u006Fdel":"a"`, `"model ":"a"`, `"m\u00f6del":"a"`, `"models":"a"`,
	`"model":"a","model":"b"`, `"model":"a","MODEL":"b"`, `"MODEL":"b","model":"a"`, `"model":"a","model":null`,
	`"model":null,"model":"a"`, `"model":"a","Model":null,"modeL":null`, `"model":null`, `"model":""`, `"model":"a","model":""`,
	`"model":"","model":"a"`, `"x":1`, `"model":5`, `"model":{}`, `"model":[]`, `"model":true`, `"model":"a","model":5`,
	`"model":5,"model":"a"`, `"model":" a "`, `"model":"a:local"`, `"model":"a\n"`, `"model":"\u0061\/\"\\\b\f\n\r\t"`,
	`"model":"\ud83e\udd99"`, `"model":"\ud83e"`, `"model":"\ud83ex"`, `"model":"\udd99\ud83e"`, `"model":"\ud83e\ud83e\udd99"`,
	`"model":"\ud83e\u0041"`, `"model":"\uD83E\uDD99\u0000"`, "\"model\":\"\x7f\u2028é🦙\"", "\"model\":\"a\xffb\"",
	"\"model\":\"\xe2\x82\"", "\"model\":\"\xed\xa0\x80\"", "\"model\":\"\xc0\x80\xf4\x90\x80\x80\"", "\"model\":\"a\",\"mod\xffel\":\"b\"",
	"\"model\":\"a\",\"x\xff\":\"\xff\"", "\"model\":\"a\x01\"", "\"model\":\"a\nb\"", `"model":"\x61"`, `"model":"\u12"`, `"model":"a`,
	`"name":"n"`, `"model":"","name":"n"`, `"model":"a","name":"n"`, `"model":null,"Name":"n","name":null`, `"model":"a","name":5`,
	`"model":"a","":0,"":{}`, `"model":"a","model\u0000":"b"`, `"model":"a","x":1e999`, `"model":"a","x":-0.0e-0`,
	`"model":"a","x":123456789012345678901234567890`, `"model":"a","x":[{"model":"b"},[[]],{}]`, `"model":"a","x":{"model":"b"}`,
	`"model":"a","x":01`, `"model":"a","x":+1`, `"model":"a","x":.5`, `"model":"a","x":1.`, `"model":"a","x":1e`, `"model":"a","x":-`,
	`"model":"a","x":NaN`, `"model":"a","x":nul`, `"model":"a","x":True`, `"model":"a","x":[1,]`, `"model":"a","x":{"y":1,}`,
	`"model":"a","x":[1 2]`, `"model":"a","x" "y"`, `"model":"a" "x":1`, `"model":"a",,"x":1`, `'model':"a"`, `model:"a"`,
	`/**/"model":"a"`, `"model":"a","keep_alive":"5m"`, `"model":"a","\u212aeep_alive":-1`, `"model":"a","keep_alive":[]`,
}

// What stands around the object.
var around = [][2]string{
	{"", " "}, {"", "\n"}, {"", "}"}, {"", "{\"model\":\"x\"}"}, {"", "\x00"}, {"", "\xff"}, {"", "x"}, {"", ","}, {"", "]"},
	{"", "[]"}, {"", "\n{\"model\":\"x\",\"stream\":false}\n"}, {"", "null"}, {"", "\ufeff"}, {"", "\""}, {"", "\"}"}, {"", "}}}{{"},
	{" \t\r\n", ""}, {"\ufeff", ""}, {"\x0b", ""}, {"\u00a0", ""}, {"\x00", ""}, {"\xff", ""}, {"[", "]"}, {"x", ""}, {"null", ""},
}

// Bodies that are no question at all.
var whole = []string{
	"", " ", "null", " null ", "nullx", "true", "1", "\"x\"", "[]", "[{}]", "{}", "{} ", "{", "}", "{\"model\"", "{\"model\":", "{\"model\":\"a\"",
	"{\"model\":\"a\",}", "{,}", "{\"model\" \"a\"}", "{\"model\":}", "{:\"a\"}", "{\"model\":\"a\"\x00}", "{\x0c}", "{}{}", "{}null", "null{}",
}

var streams = []string{
	`"stream":true`, `"stream":false`, `"stream":null`, `"STREAM":false`, `"\u017ftream":false`, `"ſtream":true`, `"stream":true,"stream":null`,
	`"stream":false,"stream":null`, `"stream":null,"stream":false`, `"stream":true,"stream":false`, `"stream":false,"Stream":true`,
	`"stream":null,"stream":true,"STREAM":null`, `"stream":"yes"`, `"stream":0`, `"stream":{}`, `"stream":false,"stream":0`, `"stream ":false`,
}

var maps = []string{
	`{"num_ctx":2048}`, `{"num_ctx":2048.0}`, `{"num_ctx":2.048e3}`, `{"num_ctx":2048.9,"num_gpu":-1}`, `{"NUM_CTX":2048}`, `{"num_ctx":null}`,
	`{"num_ctx":1,"num_ctx":2}`, `{"num_ctx":1,"num_ctx":null}`, `{"num_ctx":null,"num_ctx":1}`, `{"num_ctx":"2048"}`, `{"num_ctx":[1]}`,
	`{"num_ctx":1,"seed":2,"use_mmap":true,"num_predict":-2}`, `{"use_mmap":null}`, `{"\u0073eed":7}`, `{"ſeed":7}`, `{"seed":1e3,"x":{"seed":2}}`,
	`{"seed":-0.5}`, `{"seed":1e400}`, `{}`, `null`, `[]`, `"x"`, `5`, `{"num_ctx":1},"options":{"seed":2}`, `{"num_ctx":1},"OPTIONS":{"num_ctx":2}`,
	`{"num_ctx":1},"option\u017f":{"seed":2}`, `{"num_ctx":1},"options":null`, `{"num_ctx":1},"options":null,"options":{"seed":3}`,
	`{"num_ctx":1},"options":{"num_ctx":null}`, `{"num_ctx":1},"options":{}`, `{"num_ctx":1},"options":[]`, `null,"options":{"main_gpu":1}`,
}

var lists = []string{
	`[]`, `null`, `{}`, `"x"`, `[null]`, `[5]`, `[[]]`, `[{}]`, `[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]`,
	`[{"ROLE":"User","Content":"a"}]`, `[{"role":"user","role":"assistant","content":"a"}]`, `[{"role":"user","role":null,"content":"a"}]`,
	`[{"role":"user","content":"a","content":"b"}]`, `[{"role":"user","content":"a","content":null}]`, `[{"role":"user","content":null,"content":"a"}]`,
	`[{"role":"user","content":"a","CONTENT":"b"}]`, `[{"role":"user","content":"\u0061\ud83e\n"}]`, `[{"role":"user","content":5}]`,
	`[{"role":5,"content":"a"}]`, `[{"role":"SYSTEM","content":"s"},{"role":"user","content":"a"}]`, `[{"role":"developer","content":"s"}]`,
	`[{"role":"tool","content":"a"}]`, `[{"role":"robot","content":"a"}]`, `[{"role":"","content":"a"}]`, `[{"role":"u\u017fer","content":"a"}]`,
	"[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]", "[{\"role\":\"use\xffr\",\"content\":\"a\"}]", `[{"role":"user","content":[{"type":"text","text":"a"}]}]`,
	`[{"role":"user","content":[]}]`, `[{"role":"user","content":{}}]`, `[{"role":"user","content":"a"}],"messages":null`,
	`null,"messages":[{"role":"user","content":"a"}]`, `[{"role":"assistant","content":"x"},{"role":"user","content":"y"}],"messages":[{"role":"user","content":"a"}]`,
	`[{"role":"assistant","content":"x"}],"MESSAGES":[{"content":"a"}]`, `[{"role":"user","content":"x"}],"mes\u017fages":[]`,
	`[{"role":"user","content":"a"},]`, `[{"role":"user","content":"a"} {}]`, `[{"role":"user","content":"a","images":[]}]`,
	`[{"role":"user","content":"a","x":{"role":"assistant"}}]`,
}

var systems = []string{
	`"s"`, `""`, `null`, `[]`, `[{"type":"text","text":"s"}]`, `[{"type":"text","text":"s"},{"type":"text","text":"t"}]`, `[{"type":"image","text":"s"}]`,
	`"s","system":null`, `null,"system":"s"`, `"s","SYSTEM":"t"`, `"s","\u017fystem":"t"`, `{}`, `5`, `"s","system":[]`, `["s"]`,
}

func bodies(surface surface) []string {
	list := append([]string{}, whole...)
	object := func(members string) string { return "{" + members + "}" }
	for _, model := range models {
		list = append(list, object(model+","+surface.question))
	}
	list = append(list, object(surface.question+`,"model":"a"`), object(surface.question))
	for _, words := range around {
		list = append(list, words[0]+object(`"model":"a",`+surface.question)+words[1])
	}
	if surface.streams {
		for _, stream := range streams {
			list = append(list, object(`"model":"a",`+stream+","+surface.question))
		}
	}
	if surface.options {
		for _, options := range maps {
			list = append(list, object(`"model":"a","options":`+options+","+surface.question))
		}
	}
	if surface.messages {
		for _, messages := range lists {
			list = append(list, object(`"model":"a","max_tokens":9,"messages":`+messages))
		}
	}
	if surface.path == "/v1/messages" {
		for _, system := range systems {
			list = append(list, object(`"model":"a","system":`+system+","+surface.question))
		}
	}
	if surface.path == "/api/chat" {
		// Go counts 10,000 levels.
		for _, depth := range []int{100, 9999, 10000} {
			list = append(list, object(`"model":"a","x":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)))
		}
	}
	return list
}

func names() []string {
	long := strings.Repeat("x", 80)
	return []string{
		"", " ", "a", "A", " a ", "\ta\n", "\u00a0a\u2003", "a:latest", "a:LATEST", "a:1b", "a:", ":a", ":", "a::b", "a:b:c", "a b", "a/b", "a/b:c",
		"a/b/c", "a/b/c:d", "a/b/c/d", "/a", "a/", "a//b", "//a", "library/a", "Library/A", "registry.ollama.ai/library/a", "Registry.Ollama.AI/library/a:1",
		"registry.ollama.ai/me/a", "hf.co/Me/Mine-GGUF:Q4_K_M", "h:1/me/a", "h:1/me/a:t", "localhost:5000/a", "https://h/me/a", "https://h:1/me/a:t",
		"https://registry.ollama.ai/library/a", "http://a", "http:///a", "http:///me/a", "://h/me/a", "a://b://c/d/e", "../../a", "a/../b", "./a", "..", ".",
		".a", "_a", "-a", "a.", "a-", "a_b.c-d", "me.too/a", "me-too/a", "me_too/a", "é", "a\u00e9", "a\x00", "a\xff", "a:local", "a:LOCAL", "a:Local ",
		"a: local", "a :local", ":local", "local", "local:local", "a:local:local", "a:local:cloud", "a:cloud:local", "a:cloud", "a:Cloud", "a:1b:cloud",
		"a:1b-cloud", "a:1B-CLOUD", "a: 1b-cloud", "a:-cloud", "a:1b-cloud:local", "a:1b-cloud-cloud", "a-cloud", "me/a:cloud", "h:1/me/a:1b:cloud", "h:cloud/me/a",
		"a:latest:local", "a:1b:local", "a:b/c-cloud", long, long + "x", "a:" + long, "a:" + long + "x", long + "/a", long + "x/a",
		strings.Repeat("h", 350) + "/me/a", strings.Repeat("h", 351) + "/me/a", "a@sha256:0", "a?b", "a%20b", "a#b", "a\\b", "a,b", "a=b", "K", "ſ", "a:K",
	}
}
