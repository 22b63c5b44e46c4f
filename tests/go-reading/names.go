package main

import "strings"

// How Ollama reads the name of a model (internal/modelref, types/model/name.go), and how it is compared: without case,
// with the defaults of what it leaves out.

// The canonical spelling of a name, or "" for what Ollama refuses.
func canonical(text string) string {
	text = strings.TrimSpace(text)
	base, cloud, explicit := source(text)
	if explicit {
		if _, _, again := source(base); again {
			return ""
		}
	}
	tag := ""
	rest := base
	if colon := strings.LastIndex(rest, ":"); colon > strings.LastIndex(rest, "/") {
		tag = promised(rest[colon+1:])
		rest = promised(rest[:colon])
	}
	rest, model, more := cut(rest)
	host, namespace := "", ""
	if more {
		rest, namespace, more = cut(rest)
		if more {
			host = rest
			if _, behind, found := strings.Cut(rest, "://"); found {
				host = behind
			}
		}
	}
	host, namespace = or(host, "registry.ollama.ai"), or(namespace, "library")
	if !part(host, 350, ".:") || !part(namespace, 80, "") || !part(model, 80, ".") || !part(or(tag, "latest"), 80, ".") {
		return ""
	}
	switch {
	case !cloud:
		tag = or(tag, "latest")
	case tag == "":
		tag = "cloud"
	default:
		tag += "-cloud"
	}
	name := model + ":" + tag
	isDefault := strings.EqualFold(host, "registry.ollama.ai")
	if !isDefault || !strings.EqualFold(namespace, "library") {
		name = namespace + "/" + name
	}
	if !isDefault {
		name = host + "/" + name
	}
	return strings.ToLower(name)
}

// Where the model runs, behind the last colon: the name without it, and whether that is Ollama's cloud.
func source(text string) (string, bool, bool) {
	colon := strings.LastIndex(text, ":")
	if colon < 0 {
		return text, false, false
	}
	raw := strings.TrimSpace(text[colon+1:])
	suffix := strings.ToLower(raw)
	switch {
	case suffix == "cloud":
		return text[:colon], true, true
	case suffix == "local":
		return text[:colon], false, true
	case !strings.Contains(raw, "/") && strings.HasSuffix(suffix, "-cloud"):
		return text[:colon+1] + raw[:len(raw)-len("-cloud")], true, true
	}
	return text, false, false
}

func cut(text string) (before, after string, found bool) {
	slash := strings.LastIndex(text, "/")
	if slash < 0 {
		return text, text, false
	}
	return promised(text[:slash]), promised(text[slash+1:]), true
}

func promised(text string) string { return or(text, "!MISSING!") }

func or(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func part(text string, limit int, more string) bool {
	if text == "" || len(text) > limit {
		return false
	}
	for at := range text {
		letter := text[at]
		plain := letter >= 'A' && letter <= 'Z' || letter >= 'a' && letter <= 'z' || letter >= '0' && letter <= '9' || letter == '_'
		if !plain && (at == 0 || letter != '-' && !strings.Contains(more, string(rune(letter)))) {
			return false
		}
	}
	return true
}
