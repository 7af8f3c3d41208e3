//! The console is served whole, from this server alone, and to browsers only.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use warren_adapter_conformance::scripted_reader::ScriptedReader;
use warren_adapter_http::{IntakeAddress, QueryRoutes, Routes};

use crate::server::{TestServer, bare, config, serve_routes};
use crate::wire::{Answer, exchange};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

async fn ask(server: &TestServer, path: &str, header: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: warren\r\n{header}\r\n\r\n");
    server.send(request.as_bytes()).await
}

async fn page(server: &TestServer) -> Answer {
    let browser = "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    ask(server, "/?view=dead-letters", browser).await
}

#[tokio::test]
async fn browsers_get_the_page_and_programs_the_lines() {
    let server = TestServer::start().await;
    let page = page(&server).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("vary"), Some("accept"));
    assert!(page.text().starts_with("<!doctype html>"));
    for header in ["accept: */*", "x: y"] {
        let lines = ask(&server, "/", header).await;
        assert_eq!(lines.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(lines.header("vary"), Some("accept"));
        assert!(
            lines.text().contains("curl 'http://warren/v1/messages?"),
            "{}",
            lines.text()
        );
    }
}

#[tokio::test]
async fn it_is_told_where_messages_are_sent_to() {
    let own = TestServer::start().await;
    assert_eq!(own.get("/version").await.json()["intake"], "/v1/messages");
    for (address, intake, line) in [
        (None, json!(null), None),
        (
            Some("https://intake.example.org/shop/"),
            json!("https://intake.example.org/shop/v1/messages"),
            Some("Send a message:    curl https://intake.example.org/shop/v1/messages -d "),
        ),
    ] {
        let address = address.map(|url| IntakeAddress::parse(url).unwrap());
        let query = QueryRoutes::new(Arc::new(ScriptedReader::new()), 1).with_intake_at(address);
        let routes = Routes {
            query: Some(query),
            ..bare()
        };
        let (at, shutdown, serving) = serve_routes(&config(), routes).await;
        let ask = async |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nhost: warren\r\n\r\n");
            exchange(at, request.as_bytes(), false).await.unwrap()
        };
        assert_eq!(ask("/version").await.json()["intake"], intake);
        let told = ask("/").await.text();
        let lines = told.lines().filter(|line| line.starts_with("Send a message"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), usize::from(line.is_some()), "{told}");
        assert!(lines.iter().all(|told| told.starts_with(line.unwrap())), "{told}");
        shutdown.cancel();
        assert_eq!(serving.await.unwrap().cut, 0);
    }
}

#[tokio::test]
async fn what_the_page_and_its_modules_name_is_served() {
    let server = TestServer::start().await;
    let html = page(&server).await.text();
    let mut open: BTreeSet<String> = ["src=\"", "href=\""]
        .into_iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .filter(|reference| reference.starts_with("/console/"))
        .map(str::to_owned)
        .collect();
    let mut served = BTreeSet::new();
    while let Some(path) = open.pop_first() {
        let file = server.get(&path).await;
        assert_eq!(file.status, 200, "{path}");
        let expected = if path.ends_with(".css") {
            "text/css"
        } else {
            "text/javascript"
        };
        assert_eq!(
            file.header("content-type"),
            Some(&*format!("{expected}; charset=utf-8")),
            "{path}"
        );
        for line in file
            .text()
            .lines()
            .filter(|line| line.starts_with("import ") || line.starts_with('}'))
        {
            let Some((_, module)) = line.split_once(" from \"./") else {
                continue;
            };
            let module = format!("/console/{}", module.trim_end_matches("\";"));
            if !served.contains(&module) {
                open.insert(module);
            }
        }
        served.insert(path);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
    let written: BTreeSet<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".js") || name.ends_with(".css"))
        .map(|name| format!("/console/{name}"))
        .collect();
    assert_eq!(served, written, "all that is written is named, and served");
}

#[tokio::test]
async fn nothing_may_come_from_elsewhere_and_what_is_known_is_not_sent_again() {
    let server = TestServer::start().await;
    for path in ["/", "/console/app.js", "/console/console.css"] {
        let html = "accept: text/html";
        let first = ask(&server, path, html).await;
        for (name, value) in [
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(first.header(name), Some(value), "{path} {name}");
        }
        let tag = first.header("etag").unwrap();
        for known in [tag.to_owned(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let again = ask(&server, path, &format!("{html}\r\nif-none-match: {known}")).await;
            assert_eq!((again.status, again.body.len()), (304, 0), "{path} {known}");
            assert_eq!(again.header("etag"), Some(tag));
            assert_eq!(again.header("content-security-policy"), Some(POLICY));
        }
        let other = ask(&server, path, &format!("{html}\r\nif-none-match: \"x\"")).await;
        assert_eq!((other.status, other.body), (200, first.body));
    }
}

#[tokio::test]
async fn only_known_names_are_served() {
    let server = TestServer::start().await;
    for path in [
        "/console/",
        "/console/index.html",
        "/console/package.json",
        "/console/types.d.ts",
        "/console/App.js",
        "/console/app.js/",
        "/console/../Cargo.toml",
        "/console/..%2fCargo.toml",
        "/console/%2e%2e%2f%2e%2e%2fCargo.toml",
        "/console/app.js%00",
        "/console/%ff",
        "/console/test/unit/served.test.mjs",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}
