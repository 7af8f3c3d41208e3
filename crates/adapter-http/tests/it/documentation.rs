//! The description of the interface is complete, true, and readable without a network.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::server::TestServer;

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

#[tokio::test]
async fn the_description_has_the_paths_and_methods_of_the_router_and_no_others() {
    let server = TestServer::start().await;
    let answer = server.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let description = answer.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = description["paths"].as_object().unwrap();
    for (path, operations) in paths {
        let described: Vec<_> = METHODS
            .into_iter()
            .filter(|method| operations.get(method).is_some())
            .collect();
        assert_eq!(described.len(), operations.as_object().unwrap().len(), "{path}");
        for method in METHODS {
            let request = format!("{} {path} HTTP/1.1\r\nhost: w\r\n\r\n", method.to_uppercase());
            let answer = server.send(request.as_bytes()).await;
            let status = answer.status;
            // What a route does not find is told apart from a route that is not there.
            if method == "head" && path.contains('{') {
                // An answer without a body does not say which of the two it is.
                continue;
            }
            let no_route = status == 404 && (method == "head" || answer.text().contains("nothing is at"));
            let exists = !no_route && status != 405 && method != "options";
            let told = described.contains(&method) || (method == "head" && described.contains(&"get"));
            assert_eq!(exists, told, "{method} {path}: {status}");
        }
    }
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/version",
        "/v1/messages",
        "/v1/messages/{id}",
        "/v1/counts",
        "/v1/sources",
        "/v1/tail",
        "/v1/groups",
        "/v1/pipeline",
        "/v1/dead-letters",
        "/v1/dead-letters/redrive",
        "/v1/dead-letters/jobs/{id}",
        "/openapi.json",
        "/docs",
    ] {
        assert!(paths.contains_key(path), "{path} is not described");
    }
}

#[tokio::test]
async fn the_description_of_the_intake_is_complete() {
    let server = TestServer::start().await;
    let description = server.get("/openapi.json").await.json();
    let post = &description["paths"]["/v1/messages"]["post"];
    for status in ["202", "400", "408", "413", "415", "422", "500", "503"] {
        assert!(post["responses"].get(status).is_some(), "{status}");
    }
    let content = &post["requestBody"]["content"];
    let examples = &content["application/json"]["examples"];
    let mut bodies = vec![
        ("application/json", examples["object"]["value"].to_string()),
        ("application/json", examples["array"]["value"].to_string()),
    ];
    for content_type in ["application/x-ndjson", "text/plain"] {
        bodies.push((
            content_type,
            content[content_type]["example"].as_str().unwrap().to_owned(),
        ));
    }
    for (content_type, body) in bodies {
        let header = format!("content-type: {content_type}");
        let request = crate::hostile_requests::post("/v1/messages", &[&header], body.as_bytes());
        assert_eq!(server.send(&request).await.status, 202, "the example {body}");
    }
    let mut unresolved = Vec::new();
    references(&description, &description, &mut unresolved);
    assert!(unresolved.is_empty(), "{unresolved:?}");
    let limits = description["info"]["description"].as_str().unwrap();
    assert!(limits.contains("20.0 MiB") && limits.contains("10000") && limits.contains("256.0 KiB"));
    assert_eq!(
        description["components"]["schemas"]["Message"]["required"],
        serde_json::json!(["body"])
    );
}

#[tokio::test]
async fn every_answer_has_the_members_that_are_described() {
    use warren_adapter_conformance::scripted::PublishStep;
    use warren_domain::ports::PublishError;

    let script = [
        PublishStep::Take,
        PublishStep::Fail(PublishError::unavailable("away")),
    ];
    let server = TestServer::with(crate::server::config(), script).await;
    let description = server.get("/openapi.json").await.json();
    for (body, status, name) in [
        (r#"{"body":"x"}"#, 202, "Accepted"),
        (r#"{"body":"x"}"#, 503, "Problem"),
        ("{}", 422, "Problem"),
        ("nothing", 400, "Problem"),
    ] {
        let answer = server.post(body).await;
        assert_eq!(answer.status, status);
        let schema = &description["components"]["schemas"][name];
        let (told, described) = (answer.json(), schema["properties"].as_object().unwrap());
        for member in told.as_object().unwrap().keys() {
            assert!(described.contains_key(member), "{name} has no {member}");
        }
        for required in schema["required"].as_array().unwrap() {
            assert!(
                told.get(required.as_str().unwrap()).is_some(),
                "{required} is missing in {status}"
            );
        }
    }
}

#[tokio::test]
async fn the_groups_are_told_with_the_members_that_are_described() {
    let server = TestServer::start().await;
    let description = server.get("/openapi.json").await.json();
    let answer = server.get("/v1/groups").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    let told = answer.json();
    let group = told["groups"][0].as_object().unwrap();
    assert_eq!(group["group"], "error");
    let described = description["components"]["schemas"]["Group"]["properties"]
        .as_object()
        .unwrap();
    let names = |members: &serde_json::Map<String, Value>| members.keys().cloned().collect::<Vec<_>>();
    let own = |name: &String| name != "members";
    let described: Vec<_> = names(described).into_iter().filter(own).collect();
    assert_eq!(names(group), described);
}

#[tokio::test]
async fn the_pipeline_is_told_with_the_members_that_are_described() {
    let server = TestServer::start().await;
    let description = server.get("/openapi.json").await.json();
    let answer = server.get("/v1/pipeline").await;
    assert_eq!(
        (answer.status, answer.header("cache-control")),
        (200, Some("no-store"))
    );
    let told = answer.json();
    let schemas = &description["components"]["schemas"];
    let has = |schema: &str, told: &Value| {
        let described = schemas[schema]["properties"].as_object().unwrap();
        for member in told.as_object().unwrap().keys() {
            assert!(described.contains_key(member), "{schema} has no {member}");
        }
    };
    has("Pipeline", &told);
    let stages = told["stages"].as_array().unwrap();
    let of_stages: BTreeSet<_> = stages
        .iter()
        .flat_map(|stage| stage.as_object().unwrap().keys())
        .collect();
    let described = schemas["Stage"]["properties"].as_object().unwrap();
    assert_eq!(of_stages, described.keys().collect());
    let names: Vec<_> = stages
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["accepted", "queued", "stored", "dead"]);
    assert_eq!(
        (&stages[0]["total"]["info"], &stages[2]["total"]["info"]),
        (&7.into(), &5.into())
    );
    let missing = told["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "nobody counts dead letters: {missing:?}");
    has("Missing", &missing[0]);
}

fn references(part: &Value, whole: &Value, unresolved: &mut Vec<String>) {
    match part {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str)
                && whole.pointer(reference.trim_start_matches('#')).is_none()
            {
                unresolved.push(reference.to_owned());
            }
            members
                .values()
                .for_each(|member| references(member, whole, unresolved));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, whole, unresolved)),
        _ => {}
    }
}

#[tokio::test]
async fn the_page_loads_everything_from_this_server_and_may_load_nothing_else() {
    let server = TestServer::start().await;
    let answer = server.get("/docs").await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/docs/")));
    let page = server.get("/docs/").await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
        "{policy}"
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let html = page.text();
    let mut loaded = 0;
    for attribute in ["src=\"", "href=\""] {
        for reference in html.split(attribute).skip(1) {
            let reference = reference.split('"').next().unwrap();
            assert!(!reference.contains("//"), "{reference}");
            let asset = server
                .get(&format!("/docs/{}", reference.trim_start_matches("./")))
                .await;
            assert_eq!(asset.status, 200, "{reference}");
            assert!(!asset.body.is_empty());
            loaded += 1;
        }
    }
    assert!(loaded >= 3, "{html}");
    assert!(
        !html.contains("<script>"),
        "the policy forbids scripts within the page"
    );
    let initializer = server.get("/docs/swagger-initializer.js").await.text();
    assert!(
        initializer.contains("/openapi.json") && initializer.contains("\"none\""),
        "{initializer}"
    );
}
