//! The scenarios. They were written down before any policy that knows the herd, and no policy may change them.
//!
//! Speeds are those of single graphics cards from an old one (20 tokens a second) to a current one (120) with a
//! model of some 8 billion parameters; a prompt token costs about a twentieth of a generated one. Loads of 10 to
//! 90 seconds are models of 5 to 40 GB from a disk.

use std::time::Duration;

use crate::scenario::{Arrivals, Caller, Fault, FaultKind, HostSpec, Length, ModelSpec, Scenario};

/// All scenarios, in the order of the report.
pub const ALL: [Scenario; 7] = [UNIFORM, MIXED, SESSIONS, COLD, FAILURES, OVERLOAD, OPTIONS];

/// `OLLAMA_MAX_QUEUE` as Ollama sets it.
const MAX_QUEUE: usize = 512;
/// The context length of those who do not ask for another.
pub const USUAL_CONTEXT_LENGTH: u32 = 4096;
const USUAL_CONTEXT: &[(u32, f64)] = &[(USUAL_CONTEXT_LENGTH, 1.0)];
/// Prompts of lone questions: most are short, some bring a document.
const QUESTION: Length = Length { median: 250.0, spread: 1.0, longest: 6_000.0 };
const ANSWER: Length = Length { median: 150.0, spread: 0.8, longest: 2_000.0 };

const PLAIN_HOST: HostSpec = HostSpec {
    token_speed: 60.0,
    prompt_speed: 1_200.0,
    memory: 1,
    slots: 1,
    max_queue: MAX_QUEUE,
    models: &[0],
};
const PLAIN_MODEL: ModelSpec = ModelSpec { load: Duration::from_secs(20), size: 1.0 };
const PLAIN_CALLER: Caller = Caller {
    weight: 1.0,
    models: &[(0, 1.0)],
    contexts: USUAL_CONTEXT,
    shared_prompt: 100.0,
    prompt: QUESTION,
    answer: ANSWER,
    turns: Length::always(1.0),
    thinking: Duration::ZERO,
};

/// Equal hosts, one model.
pub const UNIFORM: Scenario = Scenario {
    name: "uniform",
    purpose: "Four equal hosts with one model and independent requests at 70 % of what they can do. The textbook \
              case: all a router can do is not to send a request to a host that is busy while another is idle.",
    hosts: &[PLAIN_HOST; 4],
    models: &[PLAIN_MODEL],
    callers: &[PLAIN_CALLER],
    arrivals: Arrivals::Poisson,
    load: 0.7,
    requests: 3_000,
    faults: &[],
};

/// The main one: nothing is equal.
pub const MIXED: Scenario = Scenario {
    name: "mixed",
    purpose: "The main scenario: four hosts from 20 to 120 tokens a second with memory for two models or one, four \
              models from 10 to 90 seconds to load that not every host has, bursts, and some sessions. It is \
              comfortable when the popular model stays on the fast hosts and the others have a home each: the two fast \
              hosts then have about 100 of their 200 tokens a second to generate, the slow ones 26 of 40 and 5 of 20.",
    hosts: MIXED_HOSTS,
    models: MIXED_MODELS,
    callers: MIXED_CALLERS,
    arrivals: MIXED_ARRIVALS,
    load: 0.5,
    requests: 2_500,
    faults: &[],
};

const MIXED_HOSTS: &[HostSpec] = &[
    HostSpec { token_speed: 120.0, prompt_speed: 2_400.0, memory: 2, models: &[0, 1, 2], ..PLAIN_HOST },
    HostSpec { token_speed: 80.0, prompt_speed: 1_600.0, memory: 2, models: &[0, 1, 2, 3], ..PLAIN_HOST },
    HostSpec { token_speed: 40.0, prompt_speed: 800.0, memory: 1, models: &[0, 1], ..PLAIN_HOST },
    HostSpec { token_speed: 20.0, prompt_speed: 400.0, memory: 1, models: &[0, 3], ..PLAIN_HOST },
];
const MIXED_MODELS: &[ModelSpec] = &[
    ModelSpec { load: Duration::from_secs(10), size: 1.0 },
    ModelSpec { load: Duration::from_secs(25), size: 1.0 },
    ModelSpec { load: Duration::from_secs(45), size: 1.5 },
    ModelSpec { load: Duration::from_secs(90), size: 1.5 },
];
const MIXED_POPULARITY: &[(usize, f64)] = &[(0, 0.6), (1, 0.22), (2, 0.15), (3, 0.03)];
const MIXED_CALLERS: &[Caller] = &[
    Caller { weight: 0.8, models: MIXED_POPULARITY, ..PLAIN_CALLER },
    Caller {
        weight: 0.2,
        models: MIXED_POPULARITY,
        shared_prompt: 600.0,
        prompt: Length { median: 80.0, spread: 0.7, longest: 1_000.0 },
        turns: Length { median: 4.0, spread: 0.6, longest: 12.0 },
        thinking: Duration::from_secs(15),
        ..PLAIN_CALLER
    },
];
const MIXED_ARRIVALS: Arrivals =
    Arrivals::Bursts { factor: 3.0, calm: Duration::from_mins(1), burst: Duration::from_secs(15) };

/// Chats whose histories grow.
pub const SESSIONS: Scenario = Scenario {
    name: "sessions",
    purpose: "Chats of about a dozen turns over a long shared prompt, on hosts that evaluate prompts slowly. A host \
              remembers the last conversation of each of its four slots, and at any time there are about half as \
              many conversations as slots: whoever sends a turn where the last one went has only the new words \
              evaluated, which keeps the hosts a third busy.",
    hosts: &[HostSpec { prompt_speed: 500.0, slots: 4, ..PLAIN_HOST }; 4],
    models: &[PLAIN_MODEL],
    callers: &[Caller {
        shared_prompt: 1_000.0,
        prompt: Length { median: 80.0, spread: 0.8, longest: 1_500.0 },
        answer: Length { median: 150.0, spread: 0.6, longest: 1_000.0 },
        turns: Length { median: 12.0, spread: 0.5, longest: 30.0 },
        thinking: Duration::from_secs(8),
        ..PLAIN_CALLER
    }],
    arrivals: Arrivals::Poisson,
    load: 0.33,
    requests: 3_000,
    faults: &[],
};

/// More models than memory.
pub const COLD: Scenario = Scenario {
    name: "cold",
    purpose: "Eight models on four hosts with memory for one each, and few requests. Three large models, which take 60 \
              to 90 seconds to load, make up 85 % of the requests, five small ones of 20 to 30 seconds the rest: with \
              a host for each large one, the fourth loads a small one about every three minutes and is idle most of \
              the time. Whatever the router, about one request in eight waits for a small \
              model.",
    hosts: &[HostSpec { models: &[0, 1, 2, 3, 4, 5, 6, 7], ..PLAIN_HOST }; 4],
    models: &[
        ModelSpec { load: Duration::from_mins(1), size: 1.0 },
        ModelSpec { load: Duration::from_secs(75), size: 1.0 },
        ModelSpec { load: Duration::from_secs(90), size: 1.0 },
        ModelSpec { load: Duration::from_secs(20), size: 0.5 },
        ModelSpec { load: Duration::from_secs(20), size: 0.5 },
        ModelSpec { load: Duration::from_secs(25), size: 0.5 },
        ModelSpec { load: Duration::from_secs(25), size: 0.5 },
        ModelSpec { load: Duration::from_secs(30), size: 0.5 },
    ],
    callers: &[Caller {
        models: &[(0, 0.4), (1, 0.27), (2, 0.18), (3, 0.03), (4, 0.03), (5, 0.03), (6, 0.03), (7, 0.03)],
        ..PLAIN_CALLER
    }],
    arrivals: Arrivals::Poisson,
    load: 0.04,
    requests: 1_500,
    faults: &[],
};

/// Hosts that fail in each way, and come back.
pub const FAILURES: Scenario = Scenario {
    name: "failures",
    purpose: "The mixed herd with a little less to do, while one host after the other fails: one dies and comes back \
              with nothing loaded, one accepts requests and never answers, one answers 503, one is five times as \
              slow. Whoever avoids a host that fails has to load models elsewhere; what remains can do the work.",
    load: 0.35,
    faults: &[
        Fault {
            host: 1,
            from: Duration::from_mins(5),
            until: Duration::from_mins(8),
            kind: FaultKind::Refuse,
        },
        Fault {
            host: 2,
            from: Duration::from_mins(11),
            until: Duration::from_mins(15),
            kind: FaultKind::Hang,
        },
        Fault {
            host: 1,
            from: Duration::from_mins(18),
            until: Duration::from_mins(21),
            kind: FaultKind::Busy,
        },
        Fault {
            host: 2,
            from: Duration::from_mins(24),
            until: Duration::from_mins(27),
            kind: FaultKind::Slow(5.0),
        },
    ],
    ..MIXED
};

/// More than the herd can do.
pub const OVERLOAD: Scenario = Scenario {
    name: "overload",
    purpose: "Four equal hosts are asked for 130 % of what they can do, half of it by one caller. Somebody must be \
              turned away; a fair gateway turns away the one that asks for most, and the eight others, who together \
              ask for 65 % of what there is, hardly notice.",
    callers: &[
        Caller { weight: 8.0, ..PLAIN_CALLER },
        PLAIN_CALLER,
        PLAIN_CALLER,
        PLAIN_CALLER,
        PLAIN_CALLER,
        PLAIN_CALLER,
        PLAIN_CALLER,
        PLAIN_CALLER,
        PLAIN_CALLER,
    ],
    load: 1.3,
    ..UNIFORM
};

/// One model with two context lengths.
pub const OPTIONS: Scenario = Scenario {
    name: "options",
    purpose: "Four equal hosts with one model, and every other request asks for a longer context. Ollama loads the \
              model again when a host is asked for the other length, so each length wants two hosts of its own, \
              which are then busy half of the time.",
    callers: &[Caller { contexts: &[(4096, 0.5), (16_384, 0.5)], ..PLAIN_CALLER }],
    load: 0.5,
    ..UNIFORM
};
