//! Averages, removing, checking and repairing from the shell.

use crate::shop::Shop;

#[test]
fn averages_from_the_shell() {
    let shop = Shop::new();
    for value in ["-5", "7.5", "1e1"] {
        assert_eq!(shop.run(&["average", "add", "a", value]).code, 0);
    }
    let mean = format!("{}\n", 12.5 / 3.0);
    assert_eq!(shop.run(&["average", "get", "a"]).out, mean);
    assert_eq!(shop.run(&["average", "pop", "a"]).out, mean);
    shop.run(&["average", "pop", "a"])
        .complains(1, &["\"a\" has no values"]);
    shop.run(&["average", "add", "a", "nan"])
        .complains(125, &["finite"]);
    shop.run(&["average", "add", "a", "much"])
        .complains(2, &["much", "--help"]);
    shop.run(&["average", "get", "a"])
        .complains(1, &["\"a\" has no values"]);
}

#[test]
fn keys_can_be_removed_one_by_one_and_by_tag() {
    let shop = Shop::new();
    for (key, tag) in [("a", "old"), ("b", "old"), ("c", "new")] {
        shop.run(&["run", "--tag", tag, key, "--", "true"]);
    }
    assert_eq!(shop.run(&["remove", "c"]).code, 0);
    shop.run(&["remove", "c"]).complains(1, &["\"c\""]);
    assert_eq!(shop.run(&["evict", "old"]).out, "2\n");
    assert_eq!(shop.json(&[])["keys"].as_array().unwrap().len(), 0);
    assert!(shop.run(&["status"]).out.contains("no keys"));
}

#[test]
fn check_and_repair_report() {
    let shop = Shop::new();
    assert!(shop.is_free("k"));
    let check = shop.run(&["check"]);
    assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    assert!(check.out.contains("keys          1") && check.out.ends_with("sound\n"));
    let repair = shop.run(&["repair"]);
    assert_eq!(repair.code, 0, "{}", repair.err);
    assert!(repair.out.contains("1 keys kept, 0 lost"), "{}", repair.out);
}
