package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
)

// What a request of each endpoint is decoded into: the names and types of the fields, and where a type decodes itself.
// They are facts of Ollama's wire format (api/types.go, openai/openai.go, openai/responses.go, anthropic/anthropic.go).

type chatRequest struct {
	Model           string          `json:"model"`
	Messages        []message       `json:"messages"`
	Stream          *bool           `json:"stream"`
	Format          json.RawMessage `json:"format"`
	KeepAlive       *duration       `json:"keep_alive"`
	Tools           []tool          `json:"tools"`
	Options         map[string]any  `json:"options"`
	Think           *think          `json:"think"`
	Truncate        *bool           `json:"truncate"`
	Shift           *bool           `json:"shift"`
	DebugRenderOnly bool            `json:"_debug_render_only"`
	Logprobs        bool            `json:"logprobs"`
	TopLogprobs     int             `json:"top_logprobs"`
}

type generateRequest struct {
	Model           string          `json:"model"`
	Prompt          string          `json:"prompt"`
	Suffix          string          `json:"suffix"`
	System          string          `json:"system"`
	Template        string          `json:"template"`
	Context         []int           `json:"context"`
	Stream          *bool           `json:"stream"`
	Raw             bool            `json:"raw"`
	Format          json.RawMessage `json:"format"`
	KeepAlive       *duration       `json:"keep_alive"`
	Images          [][]byte        `json:"images"`
	Options         map[string]any  `json:"options"`
	Think           *think          `json:"think"`
	Truncate        *bool           `json:"truncate"`
	Shift           *bool           `json:"shift"`
	DebugRenderOnly bool            `json:"_debug_render_only"`
	Logprobs        bool            `json:"logprobs"`
	TopLogprobs     int             `json:"top_logprobs"`
}

type embedRequest struct {
	Model      string         `json:"model"`
	Input      any            `json:"input"`
	KeepAlive  *duration      `json:"keep_alive"`
	Truncate   *bool          `json:"truncate"`
	Dimensions int            `json:"dimensions"`
	Options    map[string]any `json:"options"`
}

type embeddingsRequest struct {
	Model     string         `json:"model"`
	Prompt    string         `json:"prompt"`
	KeepAlive *duration      `json:"keep_alive"`
	Options   map[string]any `json:"options"`
}

type showRequest struct {
	Model    string         `json:"model"`
	System   string         `json:"system"`
	Template string         `json:"template"`
	Verbose  bool           `json:"verbose"`
	Options  map[string]any `json:"options"`
	Name     string         `json:"name"`
}

type pullRequest struct {
	Model    string `json:"model"`
	Insecure bool   `json:"insecure"`
	Username string `json:"username"`
	Password string `json:"password"`
	Stream   *bool  `json:"stream"`
	Name     string `json:"name"`
}

type message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	Thinking   string     `json:"thinking"`
	Images     [][]byte   `json:"images"`
	ToolCalls  []toolCall `json:"tool_calls"`
	ToolName   string     `json:"tool_name"`
	ToolCallID string     `json:"tool_call_id"`
}

func (m *message) UnmarshalJSON(data []byte) error {
	type alias message
	var fresh alias
	if err := json.Unmarshal(data, &fresh); err != nil {
		return err
	}
	*m = message(fresh)
	m.Role = strings.ToLower(m.Role)
	return nil
}

type toolCall struct {
	ID       string `json:"id"`
	Function struct {
		Index     int     `json:"index"`
		Name      string  `json:"name"`
		Arguments ordered `json:"arguments"`
	} `json:"function"`
}

// An ordered map, of which only the type matters here.
type ordered struct{ known map[string]any }

func (o *ordered) UnmarshalJSON(data []byte) error {
	o.known = nil
	return json.Unmarshal(data, &o.known)
}

type tool struct {
	Type     string `json:"type"`
	Items    any    `json:"items"`
	Function struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Parameters  struct {
			Type       string   `json:"type"`
			Defs       any      `json:"$defs"`
			Items      any      `json:"items"`
			Required   []string `json:"required"`
			Properties *ordered `json:"properties"`
		} `json:"parameters"`
	} `json:"function"`
}

type think struct{ value any }

func (t *think) UnmarshalJSON(data []byte) error {
	var flag bool
	if json.Unmarshal(data, &flag) == nil {
		t.value = flag
		return nil
	}
	var level string
	if json.Unmarshal(data, &level) == nil {
		switch level {
		case "high", "medium", "low", "max":
			t.value = level
			return nil
		}
	}
	return fmt.Errorf("no way to think")
}

type duration struct{ time.Duration }

func (d *duration) UnmarshalJSON(data []byte) error {
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return err
	}
	d.Duration = 5 * time.Minute
	switch t := value.(type) {
	case float64:
		if t < 0 {
			d.Duration = time.Duration(math.MaxInt64)
		} else {
			d.Duration = time.Duration(t * float64(time.Second))
		}
	case string:
		parsed, err := time.ParseDuration(t)
		if err != nil {
			return err
		}
		d.Duration = parsed
	default:
		return fmt.Errorf("no duration")
	}
	return nil
}

type openaiMessage struct {
	Role      string `json:"role"`
	Content   any    `json:"content"`
	Reasoning string `json:"reasoning"`
	ToolCalls []struct {
		ID       string `json:"id"`
		Index    int    `json:"index"`
		Type     string `json:"type"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
	Name       string `json:"name"`
	ToolCallID string `json:"tool_call_id"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type openaiChatRequest struct {
	Model            string          `json:"model"`
	Messages         []openaiMessage `json:"messages"`
	Stream           bool            `json:"stream"`
	StreamOptions    *streamOptions  `json:"stream_options"`
	MaxTokens        *int            `json:"max_tokens"`
	Seed             *int            `json:"seed"`
	Stop             any             `json:"stop"`
	Temperature      *float64        `json:"temperature"`
	FrequencyPenalty *float64        `json:"frequency_penalty"`
	PresencePenalty  *float64        `json:"presence_penalty"`
	TopP             *float64        `json:"top_p"`
	ResponseFormat   *struct {
		Type       string `json:"type"`
		JSONSchema *struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	} `json:"response_format"`
	Tools     []tool `json:"tools"`
	Reasoning *struct {
		Effort string `json:"effort"`
	} `json:"reasoning"`
	ReasoningEffort *string `json:"reasoning_effort"`
	Logprobs        *bool   `json:"logprobs"`
	TopLogprobs     int     `json:"top_logprobs"`
	DebugRenderOnly bool    `json:"_debug_render_only"`
}

type openaiCompletionRequest struct {
	Model            string         `json:"model"`
	Prompt           string         `json:"prompt"`
	FrequencyPenalty float32        `json:"frequency_penalty"`
	MaxTokens        *int           `json:"max_tokens"`
	PresencePenalty  float32        `json:"presence_penalty"`
	Seed             *int           `json:"seed"`
	Stop             any            `json:"stop"`
	Stream           bool           `json:"stream"`
	StreamOptions    *streamOptions `json:"stream_options"`
	Temperature      *float32       `json:"temperature"`
	TopP             float32        `json:"top_p"`
	Suffix           string         `json:"suffix"`
	Logprobs         *int           `json:"logprobs"`
	DebugRenderOnly  bool           `json:"_debug_render_only"`
}

type openaiEmbedRequest struct {
	Input          any    `json:"input"`
	Model          string `json:"model"`
	Dimensions     int    `json:"dimensions"`
	EncodingFormat string `json:"encoding_format"`
}

type responsesInput struct{}

func (*responsesInput) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		return nil
	}
	var items []json.RawMessage
	return json.Unmarshal(data, &items)
}

type responsesRequest struct {
	Model           string          `json:"model"`
	Background      bool            `json:"background"`
	Conversation    json.RawMessage `json:"conversation"`
	Include         []string        `json:"include"`
	Input           responsesInput  `json:"input"`
	Instructions    string          `json:"instructions"`
	MaxOutputTokens *int            `json:"max_output_tokens"`
	Reasoning       struct {
		Effort string `json:"effort"`
	} `json:"reasoning"`
	Temperature *float64 `json:"temperature"`
	TopP        *float64 `json:"top_p"`
	Truncation  *string  `json:"truncation"`
	Stream      *bool    `json:"stream"`
}

type anthropicMessage struct {
	Role    string
	Content []anthropicBlock
}

func (m *anthropicMessage) UnmarshalJSON(data []byte) error {
	var raw struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	m.Role = raw.Role
	var text string
	if json.Unmarshal(raw.Content, &text) == nil {
		m.Content = []anthropicBlock{{Type: "text", Text: &text}}
		return nil
	}
	return json.Unmarshal(raw.Content, &m.Content)
}

type anthropicBlock struct {
	Type   string  `json:"type"`
	Text   *string `json:"text"`
	Source *struct {
		Type      string `json:"type"`
		MediaType string `json:"media_type"`
		Data      string `json:"data"`
		URL       string `json:"url"`
	} `json:"source"`
	ID        string  `json:"id"`
	Name      string  `json:"name"`
	Input     ordered `json:"input"`
	ToolUseID string  `json:"tool_use_id"`
	Content   any     `json:"content"`
	IsError   bool    `json:"is_error"`
	Thinking  *string `json:"thinking"`
	Signature string  `json:"signature"`
}

type anthropicRequest struct {
	Model         string             `json:"model"`
	MaxTokens     int                `json:"max_tokens"`
	Messages      []anthropicMessage `json:"messages"`
	System        any                `json:"system"`
	Stream        bool               `json:"stream"`
	Temperature   *float64           `json:"temperature"`
	TopP          *float64           `json:"top_p"`
	TopK          *int               `json:"top_k"`
	StopSequences []string           `json:"stop_sequences"`
	Tools         []struct {
		Type        string          `json:"type"`
		Name        string          `json:"name"`
		Description string          `json:"description"`
		InputSchema json.RawMessage `json:"input_schema"`
		MaxUses     int             `json:"max_uses"`
	} `json:"tools"`
	Thinking *struct {
		Type         string `json:"type"`
		BudgetTokens int    `json:"budget_tokens"`
	} `json:"thinking"`
}
