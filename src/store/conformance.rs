//! What every kind of store must do: run over all [`STORES`](super::STORES).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::error::Kind;

/// A Wednesday, some minutes into an hour.
const START_MS: u64 = 1_767_225_600_000 + 7 * 60_000;

/// A store with what has been committed to it.
struct World {
    store: Arc<dyn Store>,
    kind: &'static StoreKind,
    dir: tempfile::TempDir,
    end: u64,
    last: Option<(u64, Vec<u8>)>,
}

fn worlds() -> impl Iterator<Item = World> {
    STORES.iter().map(|kind| {
        let dir = tempfile::tempdir().expect("a directory");
        let store = (kind.open)(dir.path()).expect("a store");
        World { store, kind, dir, end: 0, last: None }
    })
}

impl World {
    /// Commits the records as if they stood next in segment 1.
    fn commit(&mut self, records: &[Record<'_>]) {
        let bytes: Vec<u8> = records.iter().flat_map(frame::whole).collect();
        let start = self.end;
        self.end += bytes.len() as u64;
        self.put(start, &bytes);
        self.last = Some((start, bytes));
    }

    /// Commits the last batch once more, as after a failure.
    fn commit_again(&self) {
        let (start, bytes) = self.last.as_ref().expect("there was one");
        self.put(*start, bytes);
    }

    fn put(&self, start: u64, bytes: &[u8]) {
        let spans = vec![Span { segment: 1, start, bytes }];
        let covered = Covered { highest: 1, positions: [(1, self.end)].into() };
        self.store.commit(&Batch { spans, covered }).expect("committed");
    }

    /// Ends and begins again, if the kind outlasts its end.
    fn reopen(&mut self) {
        if self.kind.name != "memory" {
            self.store = (self.kind.open)(self.dir.path()).expect("a store");
        }
    }

    fn total(&self) -> Sums {
        let rows = self.store.usage(&UsageQuery::default()).expect("sums");
        let mut all = Sums::default();
        rows.iter().for_each(|row| all.add(&row.sums));
        all
    }

    fn ids(&self, query: &RecordQuery) -> Vec<RequestId> {
        let mut ids = Vec::new();
        let rest = self.store.records(query, &mut |record| {
            ids.push(record.open.id);
            ControlFlow::Continue(())
        });
        assert_eq!(rest.expect("records"), None);
        ids
    }
}

fn id(n: u64) -> RequestId {
    RequestId::new(START_MS + n, u128::from(n))
}

fn open(n: u64) -> Open<'static> {
    Open {
        time_unix_ms: START_MS + n,
        key: "k",
        account: "a",
        project: "p",
        model: "m",
        currency: *b"EUR",
        reserved_tokens: 100,
        reserved_cost_pico: 1_000,
        ..Open::new(id(n))
    }
}

fn settle(n: u64) -> Settle<'static> {
    let units = Units { in_text: 10, out_text: 2, ..Units::default() };
    let attempt = Attempt { target: "b", units, cost_pico: 7, ..Attempt::default() };
    Settle {
        state: State::Settled,
        status: 200,
        target: "b",
        units,
        cost_pico: 7,
        charge_pico: 9,
        attempts: List::Owned(vec![attempt]),
        ..Settle::new(id(n))
    }
}

fn both(n: u64) -> [Record<'static>; 2] {
    [Record::Open(open(n)), Record::Settle(settle(n))]
}

#[test]
fn case_42_a_batch_that_comes_again_counts_once() {
    for mut world in worlds() {
        world.commit(&both(1));
        world.commit(&[Record::Open(open(2))]);
        for _ in 0..3 {
            world.commit_again();
            world.reopen();
        }
        world.commit(&[Record::Settle(settle(2)), Record::Open(open(3))]);
        world.commit_again();
        world.reopen();
        world.commit_again();
        let total = world.total();
        assert_eq!((total.requests, total.units.in_text), (2, 20), "{}", world.kind.name);
        assert_eq!((total.cost_pico, total.charge_pico, total.attempt_cost_pico), (14, 18, 14));
        assert_eq!(world.store.orphans().expect("known"), 0);
        let covered = world.store.covered().expect("known");
        assert_eq!(covered, Covered { highest: 1, positions: [(1, world.end)].into() });
        assert_eq!(world.ids(&RecordQuery::default()), [id(2), id(1)]);
    }
}

#[test]
fn what_stays_open_becomes_unsettled_once() {
    for mut world in worlds() {
        world.commit(&[Record::Open(open(1)), Record::Open(open(2)), Record::Open(open(3))]);
        world.reopen();
        world.commit(&[Record::Settle(settle(2))]);
        world.reopen();
        let abandoned = world.store.abandon().expect("abandoned");
        let ids: Vec<_> = abandoned.iter().map(|it| (it.id, it.reserved_tokens)).collect();
        assert_eq!(ids, [(id(1), 100), (id(3), 100)], "{}", world.kind.name);
        assert_eq!((abandoned[0].key.as_str(), abandoned[0].time_unix_ms), ("k", START_MS + 1));
        world.reopen();
        assert!(world.store.abandon().expect("abandoned").is_empty());
        let total = world.total();
        assert_eq!((total.requests, total.unsettled, total.charge_pico), (3, 2, 9));
        assert_eq!((total.unsettled_tokens, total.unsettled_cost_pico), (200, 2_000));
        assert_eq!((total.tokens(), total.spent_pico()), (212, 2_009));
        let record = world.store.record(id(1)).expect("asked").expect("kept");
        assert_eq!(
            (record.record().open, record.record().settle.state),
            (open(1), State::Unsettled)
        );
    }
}

#[test]
fn a_settle_without_its_open_is_kept_and_counted() {
    for mut world in worlds() {
        world.commit(&[Record::Settle(settle(9))]);
        world.reopen();
        assert_eq!(world.store.orphans().expect("known"), 1);
        let rows = world.store.rows().expect("rows");
        let key = RowKey { target: "b".into(), ..RowKey::default() };
        assert_eq!(
            rows.iter().map(|(key, sums)| (key, sums.requests)).collect::<Vec<_>>(),
            [(&key, 1)]
        );
        let record = world.store.record(id(9)).expect("asked").expect("kept");
        assert_eq!(record.record().open.time_unix_ms, START_MS + 9);
    }
}

#[test]
fn a_record_is_kept_whole() {
    for mut world in worlds() {
        let candidates = [Candidate { target: "b", score: 0.5 }];
        let open = Open {
            user: "u",
            end_user: "kunde",
            tags: "blue,green",
            client: "192.0.2.7",
            is_stream: true,
            candidates: List::Borrowed(&candidates),
            ..open(1)
        };
        let flags = Flags::STREAM.with(Flags::WAITED).with(Flags::OVERRUN);
        let settle = Settle { flags, price_version: 5, fx_rate_pico: 6, ..settle(1) };
        world.commit(&[Record::Open(open.clone()), Record::Settle(settle.clone())]);
        world.reopen();
        let record = world.store.record(id(1)).expect("asked").expect("kept");
        assert_eq!(record.record(), StoredRecord { open, settle });
        assert_eq!(world.store.record(id(2)).expect("asked"), None);
    }
}

#[test]
fn records_that_are_old_go_and_their_sums_stay() {
    for mut world in worlds() {
        world.commit(&both(1));
        world.commit(&both(DAY_MS));
        assert_eq!(world.store.trim(START_MS + DAY_MS).expect("trimmed"), 1);
        assert_eq!(world.store.trim(START_MS + DAY_MS).expect("trimmed"), 0);
        world.reopen();
        assert_eq!(world.ids(&RecordQuery::default()), [id(DAY_MS)], "{}", world.kind.name);
        assert_eq!(world.store.record(id(1)).expect("asked"), None);
        assert_eq!(world.total().requests, 2);
        // Within an hour whose records are gone, the hour counts as a whole by its beginning.
        let hour = Grain::Hour.start(START_MS);
        let between = |from, to| {
            let (from_unix_ms, to_unix_ms) = (Some(from), Some(to));
            let query = UsageQuery { from_unix_ms, to_unix_ms, ..UsageQuery::default() };
            let rows = world.store.usage(&query).expect("sums");
            rows.iter().map(|row| row.sums.requests).sum::<u64>()
        };
        assert_eq!(between(hour, START_MS), 1);
        assert_eq!(between(START_MS, START_MS + HOUR_MS), 0);
        assert_eq!(between(START_MS, START_MS + DAY_MS + 1), 1);
    }
}

#[test]
fn prices_are_found_by_their_version() {
    for mut world in worlds() {
        for version in [0, 7, u64::MAX] {
            world.store.keep_price(version, &format!("{{\"input\":\"{version}\"}}")).expect("kept");
        }
        world.store.keep_price(7, "something else").expect("ignored");
        world.reopen();
        let price = |version| world.store.price(version).expect("asked");
        assert_eq!(price(7).as_deref(), Some("{\"input\":\"7\"}"));
        assert_eq!(price(u64::MAX), Some(format!("{{\"input\":\"{}\"}}", u64::MAX)));
        assert_eq!(price(8), None);
    }
}

#[test]
fn invented_models_do_not_fill_the_store_and_cost_no_sum() {
    for mut world in worlds() {
        let names: Vec<_> = (0..MODELS_PER_KEY_MAX + 50).map(|n| format!("model-{n}")).collect();
        let records: Vec<_> = (0..)
            .zip(&names)
            .flat_map(|(n, model)| {
                [Record::Open(Open { model, ..open(n) }), Record::Settle(settle(n))]
            })
            .collect();
        let (first, second) = records.split_at(names.len());
        world.commit(first);
        world.reopen();
        world.commit(second);
        let other_key = Open { key: "l", model: "model-x", ..open(5_000) };
        world.commit(&[Record::Open(other_key), Record::Settle(settle(5_000))]);
        let rows = world.store.rows().expect("rows");
        assert_eq!(rows.len() as u32, MODELS_PER_KEY_MAX + 2, "{}", world.kind.name);
        assert_eq!(world.total().requests, names.len() as u64 + 1);
        let requests = |key: [&str; 3]| {
            rows.iter().find(|row| row.0 == key.into()).map_or(0, |row| row.1.requests)
        };
        assert_eq!(requests(["k", OTHER, OTHER]), 50);
        assert_eq!(requests(["l", "model-x", "b"]), 1);
        // What was spent by them is told apart in time all the same.
        let edges_unix_ms = vec![START_MS + u64::from(MODELS_PER_KEY_MAX) + 20];
        let mut by_span = BTreeMap::new();
        let query = SpentQuery { edges_unix_ms, ..SpentQuery::default() };
        let add = &mut |_: &UsageKey<'_>, spent: &Spent| {
            *by_span.entry(spent.until_unix_ms).or_insert(0) += spent.requests;
        };
        world.store.spent(&query, add).expect("spent");
        assert_eq!(
            by_span.into_values().collect::<Vec<_>>(),
            [u64::from(MODELS_PER_KEY_MAX) + 20, 31]
        );
    }
}

#[test]
fn pages_of_records_are_gapless_in_both_orders() {
    for mut world in worlds() {
        // Requests overlap: a long one ends batches after those that began later.
        for n in 0..20 {
            world.commit(&[Record::Open(open(n * 10)), Record::Open(open(n * 10 + 1))]);
            let long = n.checked_sub(7).map(|n| Record::Settle(settle(n * 10)));
            world.commit(&[Record::Settle(settle(n * 10 + 1))]);
            world.commit(&long.into_iter().collect::<Vec<_>>());
        }
        let newest = world.ids(&RecordQuery::default());
        assert_eq!(newest.len(), 33);
        assert!(newest.is_sorted_by(|a, b| a > b), "{}", world.kind.name);
        let oldest = world.ids(&RecordQuery { oldest_first: true, ..RecordQuery::default() });
        assert!(oldest.iter().eq(newest.iter().rev()));
        for oldest_first in [false, true] {
            let mut query = RecordQuery { oldest_first, ..RecordQuery::default() };
            let mut paged = Vec::new();
            loop {
                let mut page = 0;
                let next = world.store.records(&query, &mut |record| {
                    paged.push(record.open.id);
                    page += 1;
                    if page == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                let Some(cursor) = next.expect("records") else { break };
                query.cursor = Cursor::parse(&cursor.to_string());
            }
            assert_eq!(&paged, if oldest_first { &oldest } else { &newest });
        }
    }
}

#[test]
fn records_are_found_by_what_is_asked() {
    for mut world in worlds() {
        let status = |n, status| Record::Settle(Settle { status, ..settle(n) });
        world.commit(&[Record::Open(open(1)), status(1, 200)]);
        let other = Open { key: "l", account: "z", project: "q", user: "u", model: "n", ..open(2) };
        world.commit(&[Record::Open(other), status(2, 503)]);
        world.commit(&[Record::Open(open(3)), status(3, 404)]);
        let some = |text: &str| Some(text.to_owned());
        let filters = [
            Filter { key: some("l"), ..Filter::default() },
            Filter { account: some("z"), ..Filter::default() },
            Filter { project: some("q"), ..Filter::default() },
            Filter { user: some("u"), ..Filter::default() },
            Filter { model: some("n"), ..Filter::default() },
        ];
        for filter in filters {
            let query = RecordQuery { filter: filter.clone(), ..RecordQuery::default() };
            assert_eq!(world.ids(&query), [id(2)], "{filter:?}");
            let query = UsageQuery { filter: filter.clone(), ..UsageQuery::default() };
            let rows = world.store.usage(&query).expect("sums");
            assert_eq!((rows.len(), rows[0].sums.requests), (1, 1), "{filter:?}");
        }
        let by_status = |text| {
            let status = StatusFilter::parse(text);
            world.ids(&RecordQuery { status, ..RecordQuery::default() })
        };
        assert_eq!((by_status("404"), by_status("5xx")), (vec![id(3)], vec![id(2)]));
        let (since_unix_ms, until_unix_ms) = (Some(START_MS + 2), Some(START_MS + 3));
        let query = RecordQuery { since_unix_ms, until_unix_ms, ..RecordQuery::default() };
        assert_eq!(world.ids(&query), [id(2)]);
    }
}

const KEYS: [&str; 3] = ["k1", "k2", "k3"];
const MODELS: [&str; 2] = ["m1", "m2"];
const TARGETS: [&str; 3] = ["", "t1", "t2"];
const END_USERS: [&str; 3] = ["", "e1", "e2"];
const TAGS: [&str; 4] = ["", "x", "y", "x,y"];

prop_compose! {
    fn request()(
        at in 0u64..3 * DAY_MS,
        (key, model, target) in (0usize..3, 0usize..2, 0usize..3),
        (end_user, tag) in (0usize..3, 0usize..4),
        (state, failed, cost) in (0u8..3, any::<bool>(), 0u128..1 << 70),
        lost in prop::option::of((1usize..3, 0u128..1000)),
        units in 0u64..1000,
    ) -> (Open<'static>, Settle<'static>) {
        let open = Open {
            time_unix_ms: START_MS + at,
            key: KEYS[key],
            user: ["", "u"][key % 2],
            account: ["a", "b"][key / 2],
            currency: if key == 2 { *b"EUR" } else { *b"USD" },
            model: MODELS[model],
            end_user: END_USERS[end_user],
            tags: TAGS[tag],
            reserved_tokens: 50,
            reserved_cost_pico: 5,
            // The number is filled in later.
            ..Open::new(RequestId::from_u128(0))
        };
        let units = Units { in_text: units, ..Units::default() };
        let won = Attempt { target: TARGETS[target], units, cost_pico: cost, ..Attempt::default() };
        let mut attempts = Vec::new();
        if let Some((target, cost_pico)) = lost {
            attempts.push(Attempt { target: TARGETS[target], cost_pico, ..Attempt::default() });
        }
        if target > 0 {
            attempts.push(won);
        }
        let cost_pico = attempts.iter().map(|attempt| attempt.cost_pico).sum();
        let settle = Settle {
            state: State::from_code(state).expect("a state"),
            error: failed.then_some(Kind::ServerError),
            target: TARGETS[target],
            units,
            cost_pico,
            charge_pico: cost_pico / 2,
            attempts: List::Owned(attempts),
            ..Settle::new(open.id)
        };
        (open, settle)
    }
}

fn group_by() -> impl Strategy<Value = Vec<GroupBy>> {
    prop::sample::subsequence(GroupBy::ALL.to_vec(), 0..=3)
}

fn moment() -> impl Strategy<Value = Option<u64>> {
    let within = 0..4 * DAY_MS;
    prop_oneof![
        Just(None),
        within.clone().prop_map(|at| Some(START_MS + at)),
        within.clone().prop_map(|at| Some(Grain::Hour.start(START_MS + at))),
        within.prop_map(|at| Some(Grain::Day.start(START_MS + at))),
    ]
}

/// The answer as anybody would work it out with a list of all requests.
fn naive(requests: &[(Open<'static>, Settle<'static>)], query: &UsageQuery) -> Vec<UsageRow> {
    let mut groups: BTreeMap<(Vec<String>, [u8; 3]), Sums> = BTreeMap::new();
    let by_target = query.group_by.contains(&GroupBy::Target);
    for (open, settle) in requests {
        let time = open.time_unix_ms;
        let in_time = query.from_unix_ms.is_none_or(|from| time >= from)
            && query.to_unix_ms.is_none_or(|to| time < to);
        if !in_time || !query.filter.matches(open) {
            continue;
        }
        let tags: Vec<&str> = match query.group_by.contains(&GroupBy::Tag) {
            true => open.tags.split(',').collect(),
            false => vec![""],
        };
        for tag in tags {
            let mut sums_at = |target: &str, change: &dyn Fn(&mut Sums)| {
                let text = clock_text(time);
                let value = |by: &GroupBy| match by {
                    GroupBy::Key => open.key.to_owned(),
                    GroupBy::Model => open.model.to_owned(),
                    GroupBy::Project => open.project.to_owned(),
                    GroupBy::User => open.user.to_owned(),
                    GroupBy::Account => open.account.to_owned(),
                    GroupBy::Target => target.to_owned(),
                    GroupBy::EndUser => open.end_user.to_owned(),
                    GroupBy::Tag => tag.to_owned(),
                    GroupBy::Day => text[..10].to_owned(),
                    GroupBy::Hour => format!("{}:00:00Z", &text[..13]),
                };
                let values = query.group_by.iter().map(value).collect();
                change(groups.entry((values, open.currency)).or_default());
            };
            sums_at(settle.target, &|sums| sums.count(settle, 50, 5));
            for attempt in settle.attempts.as_slice() {
                sums_at(attempt.target, &|it| it.count_attempt(&attempt.units, attempt.cost_pico));
            }
        }
    }
    let row = |((values, currency), sums): (_, Sums)| {
        let cost_pico = if by_target { sums.attempt_cost_pico } else { sums.cost_pico };
        UsageRow { values, currency, sums, cost_pico }
    };
    groups.into_iter().map(row).collect()
}

fn clock_text(unix_ms: u64) -> String {
    String::from_utf8(crate::clock::rfc3339(unix_ms).to_vec()).expect("ASCII")
}

type SpentByName = BTreeMap<(String, String, u64), (u64, u64, u128)>;

fn naive_spent(requests: &[(Open<'static>, Settle<'static>)], edges: &[u64]) -> SpentByName {
    let mut spent = SpentByName::new();
    for (open, settle) in requests {
        let mut sums = Sums::default();
        sums.count(settle, 50, 5);
        let next = edges.iter().filter(|&&edge| edge > open.time_unix_ms).min();
        let until = next.map_or(u64::MAX, |edge| edge - 1);
        let sum = spent.entry((open.key.into(), open.model.into(), until)).or_default();
        sum.0 += 1;
        sum.1 += settle.units.in_text + sums.unsettled_tokens;
        sum.2 += settle.charge_pico + sums.unsettled_cost_pico;
    }
    spent
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn sums_equal_those_of_a_list_of_all_requests(
        mut requests in prop::collection::vec(request(), 0..60),
        batches in prop::collection::vec((0usize..20, any::<bool>(), any::<bool>()), 1..8),
        queries in prop::collection::vec((moment(), moment(), group_by(), 0usize..5), 1..12),
        edges in prop::collection::vec(moment(), 0..5),
    ) {
        for (n, (open, settle)) in (0..).zip(&mut requests) {
            open.id = RequestId::new(open.time_unix_ms, n);
            settle.id = open.id;
        }
        for mut world in worlds() {
            // Half of the settles come with the openings of the next batch.
            let mut sizes = batches.iter().cycle();
            let mut rest = requests.as_slice();
            let mut late = Vec::new();
            while !rest.is_empty() {
                let &(size, again, reopen) = sizes.next().expect("endless");
                let (these, others) = rest.split_at((size + 1).min(rest.len()));
                rest = others;
                let mut records: Vec<_> = std::mem::take(&mut late);
                for (n, (open, settle)) in these.iter().enumerate() {
                    records.push(Record::Open(open.clone()));
                    let list = if n % 2 == 0 { &mut records } else { &mut late };
                    list.push(Record::Settle(settle.clone()));
                }
                world.commit(&records);
                if reopen {
                    world.reopen();
                }
                if again {
                    world.commit_again();
                }
            }
            world.commit(&late);
            for (from_unix_ms, to_unix_ms, group_by, key) in &queries {
                let filter = Filter { key: KEYS.get(*key).map(|&key| key.into()), ..Filter::default() };
                let query = UsageQuery {
                    filter,
                    from_unix_ms: *from_unix_ms,
                    to_unix_ms: *to_unix_ms,
                    group_by: group_by.clone(),
                };
                let rows = world.store.usage(&query).expect("sums");
                prop_assert_eq!(rows, naive(&requests, &query), "{:?} {}", query, world.kind.name);
            }
            let edges_unix_ms: Vec<_> = edges.iter().copied().flatten().collect();
            let want = naive_spent(&requests, &edges_unix_ms);
            let mut spent = SpentByName::new();
            let query = SpentQuery { edges_unix_ms, ..SpentQuery::default() };
            let add = &mut |name: &UsageKey<'_>, it: &Spent| {
                let key = (name.key.into(), name.model.into(), it.until_unix_ms);
                let sum = spent.entry(key).or_default();
                *sum = (sum.0 + it.requests, sum.1 + it.tokens, sum.2 + it.cost_pico);
            };
            world.store.spent(&query, add).expect("spent");
            prop_assert_eq!(spent, want, "{:?} {}", query, world.kind.name);
            let mut ids: Vec<_> = requests.iter().map(|(open, _)| open.id).collect();
            ids.sort_by(|a, b| b.cmp(a));
            prop_assert_eq!(world.ids(&RecordQuery::default()), ids);
        }
    }
}
