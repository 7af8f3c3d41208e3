//! A server that stops answers what it has taken, and takes nothing more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use warren_adapter_conformance::scripted::ScriptedPublisher;
use warren_adapter_http::{HttpConfig, Server};

use crate::gate::Gate;
use crate::hostile_requests::post;
use crate::server::{config, serve};
use crate::wire::Wire;

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_hand_are_answered_idle_connections_closed_and_new_ones_refused() {
    let (gate, mut calls) = Gate::new();
    let (address, health, shutdown, serving) = serve(config(), Arc::clone(&gate) as _, Vec::new()).await;
    let mut idle = Wire::connect(address).await;
    idle.send(b"GET /livez HTTP/1.1\r\nhost: w\r\n\r\n").await;
    assert_eq!(idle.answer().await.unwrap().status, 200);
    let mut busy = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::connect(address).await;
        wire.send(&post("/v1/messages", &[], br#"{"body":"x"}"#)).await;
        assert_eq!(calls.recv().await, Some(1));
        busy.push(wire);
    }

    health.start_draining();
    shutdown.cancel();
    assert!(idle.closes_within(Duration::from_secs(5)).await);
    let started = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(5), "still accepting");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gate.open.add_permits(20);
    for mut wire in busy {
        let answer = wire.answer().await.expect("an answer, no reset");
        assert_eq!((answer.status, answer.header("connection")), (202, Some("close")));
    }
    assert_eq!(serving.await.unwrap().cut, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_goes_on_accepting_until_balancers_have_noticed() {
    let config = HttpConfig {
        drain_delay: Duration::from_secs(1),
        ..config()
    };
    let (address, _, shutdown, serving) = serve(config, ScriptedPublisher::new([]), Vec::new()).await;
    let mut kept = Wire::connect(address).await;
    let ready = b"GET /readyz HTTP/1.1\r\nhost: w\r\n\r\n";
    kept.send(ready).await;
    assert_eq!(kept.answer().await.unwrap().status, 200);
    shutdown.cancel();
    let started = Instant::now();
    loop {
        // A new connection is taken, and asked to end, and so is the kept one.
        let mut new = Wire::connect(address).await;
        new.send(ready).await;
        let answer = new.answer().await.unwrap();
        if answer.status == 503 {
            assert!(answer.text().contains("draining"), "{}", answer.text());
            assert_eq!(answer.header("connection"), Some("close"));
            break;
        }
        assert!(started.elapsed() < Duration::from_millis(900), "still ready");
    }
    kept.send(&post("/v1/messages", &[], br#"{"body":"x"}"#)).await;
    let answer = kept.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (202, Some("close")));
    assert_eq!(serving.await.unwrap().cut, 0);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_does_not_wait_for_ever() {
    let config = HttpConfig {
        drain_timeout: Duration::from_millis(200),
        ..config()
    };
    let (gate, mut calls) = Gate::new();
    let (address, _, shutdown, serving) = serve(config, gate, Vec::new()).await;
    let mut wire = Wire::connect(address).await;
    wire.send(&post("/v1/messages", &[], br#"{"body":"x"}"#)).await;
    assert_eq!(calls.recv().await, Some(1));
    let started = Instant::now();
    shutdown.cancel();
    assert_eq!(serving.await.unwrap().cut, 1);
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(wire.answer().await.is_none());
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_explained() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    for (listen, says) in [
        (busy.as_str(), "another program listens there"),
        ("192.0.2.1:8080", "no such address"),
        ("name.invalid:8080", "cannot be resolved"),
        ("nonsense", "address:port"),
    ] {
        let config = HttpConfig {
            listen: listen.to_owned(),
            ..config()
        };
        let error = Server::bind(&config).await.unwrap_err().to_string();
        assert!(error.contains(listen) && error.contains(says), "{error}");
    }
}
