//! The private servers really start, die and come back.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use warren_test_servers::{PrivatePostgres, PrivateRabbit};

#[test]
fn a_private_postgres_comes_back_on_its_port_after_a_kill_and_a_restart() {
    let mut server = PrivatePostgres::start().unwrap();
    let url = server.url();
    server.stop_immediate();
    server.start_again().unwrap();
    server.restart().unwrap();
    assert_eq!(server.url(), url);
    drop(server);
    assert!(!listens(&url));
}

#[test]
fn a_standby_of_a_private_postgres_goes_when_it_is_dropped_and_leaves_its_primary_alone() {
    let primary = PrivatePostgres::start().unwrap();
    let standby = primary.start_standby().unwrap();
    let (url, data) = (standby.url(), standby.data());
    assert!(data.join("standby.signal").exists());
    drop(standby);
    assert!(!listens(&url) && !data.exists());
    assert!(listens(&primary.url()));
}

#[test]
fn a_private_rabbitmq_comes_back_on_its_port_after_a_kill_and_a_restart() {
    let mut node = PrivateRabbit::start().unwrap();
    let url = node.url();
    node.kill();
    assert!(!listens(&url));
    node.start_again().unwrap();
    node.restart().unwrap();
    assert_eq!(node.url(), url);
    drop(node);
    assert!(!listens(&url));
}

/// The starter must be a process of its own, so that it can be killed.
#[test]
fn a_private_server_dies_with_a_starter_that_is_killed() {
    let program = env!("CARGO_BIN_EXE_private-server");
    let mut starter = Command::new(program)
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(starter.stdout.take().unwrap())
        .read_line(&mut url)
        .unwrap();
    assert!(listens(url.trim()), "{url:?}");
    starter.kill().unwrap();
    starter.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while listens(url.trim()) {
        assert!(
            Instant::now() < end,
            "the server of a killed starter still listens"
        );
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "polls another process from a plain thread"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn listens(url: &str) -> bool {
    let authority = url.rsplit_once('@').unwrap().1.split('/').next().unwrap();
    std::net::TcpStream::connect_timeout(&authority.parse().unwrap(), Duration::from_secs(1)).is_ok()
}
