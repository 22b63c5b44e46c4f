//! What a simulated server must have in common with Ollama.

use super::*;

const HOST: HostSpec =
    HostSpec { token_speed: 10.0, prompt_speed: 100.0, memory: 1, slots: 1, max_queue: 2, models: &[0, 1] };
const MODELS: &[ModelSpec] = &[
    ModelSpec { load: Duration::from_secs(20), size: 1.0 },
    ModelSpec { load: Duration::from_secs(30), size: 1.0 },
];
/// Takes one second for its prompt and two for its answer.
const WORK: Work = Work {
    model: 0,
    context: 4096,
    conversation: 1,
    caller: 0,
    shared_prompt: 0.0,
    known_prompt: 0.0,
    prompt: 100.0,
    answer: 20.0,
};

/// When a request got its first byte or its end, in seconds.
type Moments = Vec<(RequestId, &'static str, f64)>;

fn server(spec: HostSpec) -> Server {
    Server::new(spec, MODELS)
}

/// Goes on until nothing happens any more, and tells what did.
fn settle(server: &mut Server) -> Moments {
    let mut moments = Vec::new();
    while let Some(now) = server.next_change() {
        for happening in server.advance(now) {
            let (id, word) = match happening {
                Happening::FirstByte(id) => (id, "first byte"),
                Happening::Finished(id, _) => (id, "end"),
            };
            moments.push((id, word, (now.as_secs_f64() * 1e3).round() / 1e3));
        }
    }
    moments
}

/// Has a request answered, and tells how long its first byte and its end took.
fn ask(server: &mut Server, work: &Work) -> (f64, f64) {
    let begin = server.now.as_secs_f64();
    server.accept(0, work).unwrap();
    let took = |(_, _, at): &(RequestId, &str, f64)| ((at - begin) * 1e3).round() / 1e3;
    let moments: Vec<_> = settle(server).iter().map(took).collect();
    (moments[0], moments[1])
}

#[test]
fn the_first_request_waits_for_the_load_and_the_next_one_does_not() {
    let mut server = server(HOST);
    assert_eq!(ask(&mut server, &WORK), (21.0, 23.0));
    assert_eq!(ask(&mut server, &Work { conversation: 2, ..WORK }), (1.0, 3.0));
    assert_eq!(server.loads(), 1);
}

#[test]
fn a_second_model_takes_the_place_of_the_first_where_memory_is_for_one() {
    for (memory, loads) in [(1, 3), (2, 2)] {
        let mut server = server(HostSpec { memory, ..HOST });
        for model in [0, 1, 0] {
            ask(&mut server, &Work { model, ..WORK });
        }
        assert_eq!(server.loads(), loads, "memory for {memory}");
        assert_eq!(server.probe().unwrap().loaded.len(), memory);
    }
}

#[test]
fn the_model_unused_longest_goes() {
    const THREE: &[ModelSpec] = &[MODELS[0]; 3];
    let mut server = Server::new(HostSpec { memory: 2, models: &[0, 1, 2], ..HOST }, THREE);
    for model in [0, 1, 0, 2] {
        ask(&mut server, &Work { model, ..WORK });
    }
    let loaded: Vec<_> = server.probe().unwrap().loaded.iter().map(|loaded| loaded.model).collect();
    assert_eq!(loaded, [0, 2]);
}

#[test]
fn a_load_waits_until_the_loaded_model_has_nothing_to_do_and_others_may_keep_it_busy() {
    let mut server = server(HOST);
    ask(&mut server, &WORK);
    let begin = server.now.as_secs_f64();
    server.accept(1, &WORK).unwrap();
    server.accept(2, &Work { model: 1, ..WORK }).unwrap();
    server.accept(3, &Work { conversation: 3, ..WORK }).unwrap();
    let ends: Vec<_> =
        settle(&mut server).into_iter().filter(|(_, word, _)| *word == "end").map(|(id, _, _)| id).collect();
    assert_eq!(ends, [1, 3, 2]);
    assert!(server.now.as_secs_f64() - begin > 30.0);
}

#[test]
fn other_options_load_the_model_again_when_its_requests_are_done() {
    let mut server = server(HostSpec { memory: 2, ..HOST });
    ask(&mut server, &WORK);
    server.accept(1, &Work { conversation: 2, ..WORK }).unwrap();
    server.accept(2, &Work { context: 8192, ..WORK }).unwrap();
    let moments = settle(&mut server);
    assert_eq!(
        moments,
        [(1, "first byte", 24.0), (1, "end", 26.0), (2, "first byte", 47.0), (2, "end", 49.0)]
    );
    assert_eq!(server.loads(), 2);
    assert_eq!(server.probe().unwrap().loaded, [LoadedModel { model: 0, context: 8192 }]);
}

#[test]
fn a_full_queue_for_loads_says_503_and_a_loaded_model_takes_everybody() {
    let mut server = server(HOST);
    ask(&mut server, &WORK);
    for id in 1..=20 {
        server.accept(id, &WORK).unwrap();
    }
    let cold = Work { model: 1, ..WORK };
    assert_eq!((server.accept(21, &cold), server.accept(22, &cold)), (Ok(()), Ok(())));
    assert_eq!(server.accept(23, &cold), Err(Failure::Busy));
    assert_eq!(server.accept(24, &WORK), Ok(()));
    assert_eq!(settle(&mut server).len(), 2 * 23);
}

#[test]
fn a_session_served_again_has_only_what_is_new_evaluated() {
    let mut server = server(HOST);
    ask(&mut server, &WORK);
    let turn = Work { known_prompt: 120.0, prompt: 220.0, ..WORK };
    assert_eq!(ask(&mut server, &turn), (1.0, 3.0), "100 of 220 tokens are new");
    ask(&mut server, &Work { conversation: 2, ..WORK });
    assert_eq!(ask(&mut server, &turn), (2.2, 4.2), "another conversation has taken the only slot");
}

#[test]
fn a_callers_prompt_is_evaluated_once() {
    let mut server = server(HOST);
    let work = Work { shared_prompt: 80.0, known_prompt: 80.0, ..WORK };
    assert_eq!(ask(&mut server, &work), (21.0, 23.0));
    assert_eq!(ask(&mut server, &Work { conversation: 2, ..work }), (0.2, 2.2));
    assert_eq!(ask(&mut server, &Work { conversation: 3, caller: 1, ..work }), (1.0, 3.0));
}

#[test]
fn one_slot_answers_one_after_the_other_and_two_answer_both_slower() {
    for (slots, ends) in [(1, [(1, 3.0), (2, 6.0)]), (2, [(1, 4.2), (2, 4.2)])] {
        let mut server = server(HostSpec { slots, ..HOST });
        ask(&mut server, &Work { caller: 9, ..WORK });
        let begin = server.now.as_secs_f64();
        server.accept(1, &Work { conversation: 2, ..WORK }).unwrap();
        server.accept(2, &Work { conversation: 3, ..WORK }).unwrap();
        let ended = settle(&mut server).into_iter().filter(|(_, word, _)| *word == "end");
        let mut found: Vec<_> = ended.map(|(id, _, at)| (id, ((at - begin) * 1e3).round() / 1e3)).collect();
        found.sort_by_key(|(id, _)| *id);
        assert_eq!(found, ends, "{slots} slots");
    }
}

#[test]
fn two_models_at_once_share_the_card() {
    let mut server = server(HostSpec { memory: 2, ..HOST });
    ask(&mut server, &WORK);
    ask(&mut server, &Work { model: 1, ..WORK });
    let begin = server.now.as_secs_f64();
    for model in [0, 1] {
        server.accept(model, &Work { model, conversation: 2, ..WORK }).unwrap();
    }
    let ends: Vec<_> =
        settle(&mut server).into_iter().map(|(_, _, at)| ((at - begin) * 1e3).round() / 1e3).collect();
    assert_eq!(ends, [2.0, 2.0, 6.0, 6.0]);
}

#[test]
fn a_host_that_died_has_nothing_loaded_and_one_that_hangs_goes_on_where_it_stood() {
    let mut server = server(HOST);
    ask(&mut server, &WORK);
    server.accept(1, &WORK).unwrap();
    server.fail(FaultKind::Hang);
    assert_eq!((server.next_change(), server.probe()), (None, None));
    assert!(server.advance(server.now + Duration::from_mins(5)).is_empty());
    server.recover();
    assert_eq!(settle(&mut server).len(), 2);
    server.accept(2, &WORK).unwrap();
    assert_eq!(server.fail(FaultKind::Refuse), [2]);
    assert_eq!(server.accept(3, &WORK), Err(Failure::Refused));
    server.recover();
    assert_eq!(ask(&mut server, &WORK), (21.0, 23.0));
}

#[test]
fn who_leaves_makes_room_for_who_waits() {
    let mut server = server(HOST);
    ask(&mut server, &WORK);
    server.accept(1, &Work { answer: 1e6, ..WORK }).unwrap();
    server.accept(2, &Work { conversation: 2, ..WORK }).unwrap();
    server.accept(3, &Work { model: 1, ..WORK }).unwrap();
    server.abandon(3);
    server.abandon(1);
    assert_eq!(settle(&mut server), [(2, "first byte", 24.0), (2, "end", 26.0)]);
    assert_eq!(server.loads(), 1);
}
