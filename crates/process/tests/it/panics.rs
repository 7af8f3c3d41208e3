use warren_process::telemetry::{TelemetryConfig, logging, metrics};

#[test]
fn a_panic_is_counted_and_the_process_goes_on() {
    logging::init(&TelemetryConfig::default()).unwrap();
    let metrics = metrics::install("1.2.3").unwrap();
    let page = metrics.render();
    assert!(page.contains("warren_panics_total 0"), "{page}");
    assert!(page.contains("warren_build_info{version=\"1.2.3\"} 1"), "{page}");
    assert!(page.contains("# TYPE process_open_fds gauge"), "{page}");

    std::thread::spawn(|| panic!("on purpose\nFATAL forged line"))
        .join()
        .unwrap_err();
    let page = metrics.render();
    // Other tests of this program may fail by a panic of their own meanwhile.
    assert!(!page.contains("warren_panics_total 0"), "{page}");
    assert!(
        logging::init(&TelemetryConfig::default()).is_err(),
        "logging begins once"
    );
}
