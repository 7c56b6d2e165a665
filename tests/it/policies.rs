//! Policies, as the upstreams see them: by counting.

use crate::fleet::{ask, expect_text, good, saying};
use crate::support::{Gateway, Raw, Scripted, Setup, chat, client, eventually};

const CHAT: &str = "/v1/chat/completions";

fn three(upstreams: [&Scripted; 3], policy: &str, targets: [&str; 3]) -> Gateway {
    let list: Vec<String> = ["up", "second", "third"]
        .iter()
        .zip(targets)
        .map(|(name, rest)| format!("{{ provider = \"{name}\", model = \"served\", {rest} }}"))
        .collect();
    let model = format!(
        "[[model]]\nname = \"m\"\npolicy = \"{policy}\"\ntargets = [{}]\n",
        list.join(", ")
    );
    let more = |name, at: usize| crate::fleet::provider(name, upstreams[at].addr, "");
    Setup::to(upstreams[0].addr)
        .models(&model)
        .more(&more("second", 1))
        .more(&more("third", 2))
        .start()
}

#[test]
fn weighted_shares_follow_the_weights() {
    let upstreams = [saying("a"), saying("b"), saying("c")];
    let [a, b, c] = &upstreams;
    let gateway = three([a, b, c], "weighted", ["weight = 3", "weight = 1", "weight = 0"]);
    let mut caller = Raw::connect(gateway.addr);
    for _ in 0..400 {
        caller.send(client::encode_post(CHAT, chat("m", false, "Hello")));
        assert_eq!(caller.answer().status, 200);
    }
    let share = a.count();
    assert!((250..=350).contains(&share), "3 of 4 means 300 of 400, not {share}");
    assert_eq!((share + b.count(), c.count()), (400, 0));
}

#[test]
fn priority_asks_the_first_as_long_as_it_answers() {
    let down = Scripted::start(|peer| {
        peer.request();
    });
    let (second, third) = (saying("second"), saying("third"));
    let gateway = three(
        [&down, &second, &third],
        "priority",
        ["priority = 2", "priority = 1", "priority = 0"],
    );
    for _ in 0..10 {
        expect_text(&ask(gateway.addr, false), "third");
    }
    assert_eq!((down.count(), second.count(), third.count()), (0, 0, 10));

    let gateway = three(
        [&down, &second, &third],
        "priority",
        ["priority = 0", "priority = 1", "priority = 2"],
    );
    expect_text(&ask(gateway.addr, false), "second");
    assert_eq!((down.count(), second.count(), third.count()), (1, 1, 10));
}

#[test]
fn least_outstanding_spreads_what_is_under_way() {
    let holding = || {
        Scripted::start(|peer| {
            while let Some(request) = peer.request() {
                if request.text().contains("hold") {
                    peer.start_events();
                    peer.chunk(crate::support::upstream::delta("held"));
                    peer.wait_closed();
                    return;
                }
                peer.write(good(&request, "quick"));
            }
        })
    };
    let upstreams = [holding(), holding(), holding()];
    let [a, b, c] = &upstreams;
    let gateway = three([a, b, c], "least_outstanding", ["weight = 1", "weight = 1", "weight = 2"]);
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut caller = Raw::connect(gateway.addr);
        caller.send(client::encode_post(CHAT, chat("m", true, "hold")));
        let mut answer = caller.head();
        caller.read_until(&mut answer, "held");
        held.push(caller);
    }
    let counts = [a.count(), b.count(), c.count()];
    assert_eq!(counts, [2, 2, 4], "in proportion to the weights");
    // When those on the third are gone it is the idlest again.
    held.clear();
    eventually("all have left", || gateway.metric("foretoken_inflight", &[]) == 0.0);
    expect_text(&ask(gateway.addr, false), "quick");
}

#[test]
fn case_27_a_target_that_speaks_first_and_then_fails_loses_its_rank() {
    // Quick to its first token, and never to its last.
    let hasty = Scripted::start(|peer| {
        if peer.request().is_some() {
            peer.start_events();
            peer.chunk(crate::support::upstream::delta("I will"));
        }
    });
    let (steady, third) = (saying("steady"), saying("third"));
    let gateway = three(
        [&hasty, &steady, &third],
        "priority",
        ["priority = 0", "priority = 1", "priority = 2"],
    );
    for nth in 1..=3 {
        let answer = ask(gateway.addr, true);
        assert!(answer.text().contains("upstream_stream_interrupted"), "{nth}: {}", answer.text());
    }
    // Success counts, not the first token: the next in line is asked now.
    for _ in 0..10 {
        expect_text(&ask(gateway.addr, true), "steady");
    }
    assert_eq!((hasty.count(), steady.count()), (3, 10));
}
