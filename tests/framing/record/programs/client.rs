// Requests of reqwest, hyper and ureq: client reqwest|hyper|ureq ADDRESS
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

async fn by_reqwest(base: &str) {
    let client = reqwest::Client::builder().user_agent("kbs-client").cookie_store(true).build().unwrap();
    let parts = || stream::iter(["hello ", "world"].map(|each| Ok::<_, std::io::Error>(Bytes::from(each))));
    let form = reqwest::multipart::Form::new().text("a", "b\r\n\r\nc");
    for request in [
        client.get(format!("{base}/reqwest/get?a=b")),
        client.post(format!("{base}/reqwest/json")).json(&serde_json::json!({"version": "0.4.0", "tee": "sample"})),
        client.post(format!("{base}/reqwest/text")).body("hello"),
        client.post(format!("{base}/reqwest/chunked")).body(reqwest::Body::wrap_stream(parts())),
        client.post(format!("{base}/reqwest/multipart")).multipart(form),
        client.put(format!("{base}/reqwest/nothing")),
        client.delete(format!("{base}/reqwest/delete")).bearer_auth("a.b.c"),
        client.get(format!("{base}/reqwest/old")).version(reqwest::Version::HTTP_10),
        client.get(format!("{base}/reqwest/cookie")).header("Cookie", "kbs-session-id=1"),
    ] {
        request.send().await.unwrap().bytes().await.unwrap();
    }
    let proxied = reqwest::Client::builder().proxy(reqwest::Proxy::http(base).unwrap()).build().unwrap();
    proxied.get("http://localhost:8006/reqwest/proxied").send().await.unwrap().bytes().await.unwrap();
}

async fn by_hyper(base: &str) {
    let get = Request::get(format!("{base}/hyper/get")).body(Empty::<Bytes>::new()).unwrap();
    Client::builder(TokioExecutor::new()).build_http().request(get).await.unwrap().collect().await.unwrap();
    let post = Request::post(format!("{base}/hyper/post")).body(Full::new(Bytes::from("hello"))).unwrap();
    Client::builder(TokioExecutor::new()).build_http().request(post).await.unwrap().collect().await.unwrap();
    let frames = ["hello ", "world"].map(|each| Ok::<_, std::io::Error>(Frame::data(Bytes::from(each))));
    let chunked = Request::builder().method(Method::PUT).uri(format!("{base}/hyper/chunked"));
    let chunked = chunked.body(StreamBody::new(stream::iter(frames))).unwrap();
    Client::builder(TokioExecutor::new()).build_http().request(chunked).await.unwrap().collect().await.unwrap();
    let cased = Request::get(format!("{base}/hyper/cased")).body(Empty::<Bytes>::new()).unwrap();
    let client = Client::builder(TokioExecutor::new()).http1_title_case_headers(true).build_http();
    client.request(cased).await.unwrap().collect().await.unwrap();
}

fn by_ureq(base: &str) {
    ureq::get(&format!("{base}/ureq/get")).call().unwrap().into_string().unwrap();
    ureq::post(&format!("{base}/ureq/post")).send_string("hello").unwrap().into_string().unwrap();
    ureq::put(&format!("{base}/ureq/chunked")).send(&b"hello world"[..]).unwrap().into_string().unwrap();
    ureq::post(&format!("{base}/ureq/form")).send_form(&[("a", "b c")]).unwrap().into_string().unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments[1].as_str() {
        "reqwest" => runtime.block_on(by_reqwest(&arguments[2])),
        "hyper" => runtime.block_on(by_hyper(&arguments[2])),
        _ => by_ureq(&arguments[2]),
    }
}
