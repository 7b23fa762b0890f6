use expect_test::expect;

use super::{canonical, format_micro_time, format_time, parse};

#[test]
fn instants_are_read_strictly_and_written_canonically() {
    let cases = [
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00.999999999Z",
        "2026-01-31T12:00:00+02:00",
        "2026-01-31t12:00:00Z",
        "2026-01-31 12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00.Z",
        "",
    ];
    let out: Vec<String> = cases.map(|c| format!("{c} -> {:?} {:?}", canonical(c, false), canonical(c, true))).into();
    expect![[r#"
        2026-01-31T12:00:00Z -> Ok(None) Ok(Some("2026-01-31T12:00:00.000000Z"))
        2026-01-31T12:00:00.999999999Z -> Ok(Some("2026-01-31T12:00:00Z")) Ok(Some("2026-01-31T12:00:00.999999Z"))
        2026-01-31T12:00:00+02:00 -> Ok(Some("2026-01-31T10:00:00Z")) Ok(Some("2026-01-31T10:00:00.000000Z"))
        2026-01-31t12:00:00Z -> Err(()) Err(())
        2026-01-31 12:00:00Z -> Err(()) Err(())
        2026-02-30T12:00:00Z -> Err(()) Err(())
        2026-01-31T12:00:00 -> Err(()) Err(())
        2026-01-31T12:00:00.Z -> Err(()) Err(())
         -> Err(()) Err(())"#]]
    .assert_eq(&out.join("\n"));
}

#[test]
fn times_before_the_epoch_are_cut_downwards() {
    let at = parse("1969-12-31T23:59:58.250000Z").unwrap();
    assert_eq!(format_time(at), "1969-12-31T23:59:58Z");
    assert_eq!(format_micro_time(at), "1969-12-31T23:59:58.250000Z");
}
