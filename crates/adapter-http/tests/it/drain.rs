//! A server that stops answers what it has taken, and takes nothing more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use warren_adapter_http::{Drained, HttpConfig, Server};

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
    assert_eq!(serving.await.unwrap(), Drained { cut: 0 });
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
    assert_eq!(serving.await.unwrap(), Drained { cut: 1 });
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
