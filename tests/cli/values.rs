//! Values from the shell.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use slablock::{Cache, FanoutCache, Lock};

use crate::shop::{Shop, code};

/// Runs it with that on its standard input.
fn feed<A: AsRef<OsStr>>(shop: &Shop, arguments: &[A], input: &[u8]) -> Output {
    let mut command = shop.command(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// That the answer is no, of which nothing is said.
fn is_no(shop: &Shop, arguments: &[&str]) {
    let outcome = shop.run(arguments);
    assert_eq!(outcome.code, 1, "{}", outcome.err);
    assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", ""));
}

fn is_done(shop: &Shop, arguments: &[&str], out: &str) {
    let outcome = shop.run(arguments);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert_eq!((outcome.out.as_str(), outcome.err.as_str()), (out, ""));
}

#[test]
fn values_are_set_got_and_deleted() {
    let shop = Shop::new();
    is_done(&shop, &["set", "k", "hello"], "");
    is_done(&shop, &["get", "k"], "hello");
    is_no(&shop, &["add", "k", "other"]);
    is_done(&shop, &["get", "k"], "hello");
    is_done(&shop, &["pop", "k"], "hello");
    is_no(&shop, &["pop", "k"]);
    is_no(&shop, &["get", "k"]);
    is_no(&shop, &["delete", "k"]);
    is_no(&shop, &["touch", "k"]);
    is_done(&shop, &["add", "k", ""], "");
    is_done(&shop, &["get", "k"], "");
    is_done(&shop, &["delete", "k"], "");
}

#[test]
fn expiry_and_tag_are_kept_when_a_value_is_replaced() {
    let shop = Shop::new();
    is_done(
        &shop,
        &["set", "--keep", "--expire", "600", "--tag", "t", "k", "1"],
        "",
    );
    is_done(&shop, &["set", "--keep", "--expire", "5", "k", "2"], "");
    let entry = || {
        Cache::open(shop.store())
            .unwrap()
            .entry("k")
            .unwrap()
            .unwrap()
    };
    assert_eq!(
        (entry().value, entry().tag),
        (b"2".to_vec(), Some(b"t".to_vec()))
    );
    assert!(entry().expires_in > Some(Duration::from_secs(500)));
    is_done(&shop, &["set", "k", "3"], "");
    assert_eq!((entry().expires_in, entry().tag), (None, None));
}

#[test]
fn values_and_keys_are_bytes() {
    let shop = Shop::new();
    let key = OsString::from_vec(b"odd\xff\nkey".to_vec());
    let words = |verb: &'static str| [OsStr::new(verb), &key].map(OsStr::to_owned);
    for len in [0, 1, 300, 1_000_000] {
        let value: Vec<u8> = (0..len).map(|i| (i % 256) as u8).collect();
        let set = feed(&shop, &words("set"), &value);
        assert_eq!(code(set.status), 0);
        let got = feed(&shop, &words("get"), b"");
        assert!(got.stdout == value && got.stderr.is_empty());
    }
    let listed = feed(&shop, &["keys", "-0"], b"");
    assert_eq!(listed.stdout, b"odd\xff\nkey\0");
    let text = shop.run(&["keys", "--json"]).out;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["keys"][0]["key"], "odd\\xff\\n".to_owned() + "key");
    assert_eq!(json["keys"][0]["key_hex"], "6f6464ff0a6b6579");
    let cache = Cache::open(shop.store()).unwrap();
    assert_eq!(
        cache.get(b"odd\xff\nkey").unwrap().unwrap().len(),
        1_000_000
    );
}

#[test]
fn integers_are_counted() {
    let shop = Shop::new();
    is_done(&shop, &["incr", "n"], "1\n");
    is_done(&shop, &["incr", "n", "-11"], "-10\n");
    is_done(&shop, &["incr", "m", "--default", "40", "2"], "42\n");
    is_done(&shop, &["get", "m"], "42");
    is_done(&shop, &["set", "t", "-5"], "");
    is_done(&shop, &["incr", "t"], "-4\n");
    is_done(&shop, &["set", "t", "text"], "");
    shop.run(&["incr", "t"])
        .complains(125, &["\"t\"", "integer"]);
    shop.run(&["incr", "t", "much"]).complains(2, &["much"]);
}

#[test]
fn expiry_and_tags_are_kept() {
    let shop = Shop::new();
    is_done(
        &shop,
        &["set", "--expire", "60", "--tag", "t", "a", "v"],
        "",
    );
    is_done(&shop, &["set", "b", "v"], "");
    is_done(&shop, &["touch", "b", "--expire", "30"], "");
    is_done(&shop, &["keys"], "a\nb\n");
    let text = shop.run(&["keys", "--json"]).out;
    let json: Value = serde_json::from_str(&text).unwrap();
    let [a, b] = json["keys"].as_array().unwrap().as_slice() else {
        panic!("{json}");
    };
    assert_eq!((&a["tag"], &a["bytes"]), (&"t".into(), &1.into()));
    for (key, most) in [(a, 60.0), (b, 30.0)] {
        let left = key["expires_in_seconds"].as_f64().unwrap();
        assert!(left > 0.0 && left <= most + 0.01, "{left}");
    }
    assert!(b["tag"].is_null());
    is_done(&shop, &["evict", "t"], "1\n");
    is_done(&shop, &["touch", "b"], "");
    let json: Value = serde_json::from_str(&shop.run(&["keys", "--json"]).out).unwrap();
    assert!(json["keys"][0]["expires_in_seconds"].is_null());
    shop.run(&["set", "k", "v", "--expire", "0"])
        .complains(2, &["more than zero"]);
}

#[test]
fn what_is_no_value_is_said_to_be_none() {
    let shop = Shop::new();
    let cache = Cache::open(shop.store()).unwrap();
    drop(Lock::new(&cache, "lock").acquire().unwrap());
    for verb in ["get", "set", "add", "incr", "pop", "delete", "touch"] {
        shop.run(&[verb, "lock"])
            .complains(125, &["\"lock\"", "lock", "value"]);
        shop.run(&[verb, ""]).complains(125, &["1024"]);
        shop.run(&[verb]).complains(2, &["KEY", "--help"]);
    }
    is_done(&shop, &["keys"], "");
    is_done(&shop, &["clear"], "1\n");
    is_no(&shop, &["get", "lock"]);
}

#[test]
fn asking_makes_no_store() {
    let shop = Shop::new();
    for verb in ["get", "pop", "delete", "touch"] {
        is_no(&shop, &[verb, "k"]);
    }
    for verb in ["expire", "cull", "volume", "clear"] {
        is_done(&shop, &[verb], "0\n");
    }
    is_done(&shop, &["keys"], "");
    assert_eq!(shop.run(&["stats"]).code, 0);
    assert!(!shop.store().exists());
}

#[test]
fn a_store_with_many_values_is_looked_after() {
    let shop = Shop::new();
    let cache = FanoutCache::open(shop.store(), 3).unwrap();
    let soon = slablock::SetOptions::new().expire(Duration::from_millis(1));
    for n in 0..10 {
        cache.set_with(format!("soon {n}"), "v", &soon).unwrap();
        cache.set(format!("stays {n}"), vec![7; 10_000]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(5));
    is_done(&shop, &["get", "stays 1"], &"\u{7}".repeat(10_000));
    is_no(&shop, &["get", "soon 1"]);
    is_done(&shop, &["expire"], "10\n");
    is_done(&shop, &["expire"], "0\n");
    is_done(&shop, &["cull"], "0\n");
    let volume = shop.run(&["volume"]).out.trim().parse::<u64>().unwrap();
    assert!(volume > 100_000, "{volume}");
    let stats: Value = serde_json::from_str(&shop.run(&["stats", "--json"]).out).unwrap();
    assert_eq!((&stats["hits"], &stats["misses"]), (&1.into(), &1.into()));
    assert!(stats["bytes_live"].as_u64().unwrap() > 100_000, "{stats}");
    assert_eq!(stats["dir"], shop.path("store"));
    let table = shop.run(&["stats"]).out;
    for line in ["hits        1\n", "evictions   0\n", "volume      "] {
        assert!(table.contains(line), "{table}");
    }
    is_done(&shop, &["clear"], "10\n");
    is_done(&shop, &["keys"], "");
}

#[test]
fn status_shows_values_as_values() {
    let shop = Shop::new();
    is_done(
        &shop,
        &["set", "--expire", "3600", "k", &"v".repeat(1_234)],
        "",
    );
    let table = shop.run(&["status"]).out;
    for word in ["BYTES", "EXPIRES IN", "1,234", "59 min", "value"] {
        assert!(table.contains(word), "no {word:?} in\n{table}");
    }
    assert!(!table.contains("free"), "{table}");
    let key = &shop.json(&[])["keys"][0];
    assert_eq!(
        (&key["kind"], &key["value"]["bytes"]),
        (&"value".into(), &1_234.into())
    );
    assert!(key["value"]["expires_in_seconds"].as_f64().unwrap() > 3_500.0);
    assert_eq!(shop.run(&["remove", "k"]).code, 0);
    is_no(&shop, &["get", "k"]);
}
