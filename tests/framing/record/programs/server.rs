// Answers of actix-web and axum: server actix|axum ADDRESS
use actix_web::{web, App, HttpResponse, HttpServer};
use bytes::Bytes;
use futures_util::stream;

fn parts() -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    stream::iter((0..3).map(|at| Ok(Bytes::from(format!("part {at}\r\n\r\n")))))
}

async fn actix(address: &str) -> std::io::Result<()> {
    HttpServer::new(|| {
        App::new()
            .route("/text", web::get().to(|| async { "hello\n" }))
            .route("/none", web::get().to(|| async { HttpResponse::NoContent().finish() }))
            .route("/stream", web::get().to(|| async { HttpResponse::Ok().streaming(parts()) }))
            .route("/echo", web::post().to(|body: Bytes| async move { HttpResponse::Ok().body(body) }))
            .route("/problem", web::get().to(|| async {
                HttpResponse::Unauthorized().json(std::collections::HashMap::from([("type", "x"), ("detail", "y")]))
            }))
    })
    .workers(1)
    .bind(address)?
    .run()
    .await
}

async fn axum_server(address: &str) {
    use axum::routing::{get, post};
    let app = axum::Router::new()
        .route("/text", get(|| async { "hello\n" }))
        .route("/none", get(|| async { axum::http::StatusCode::NO_CONTENT }))
        .route("/stream", get(|| async { axum::body::Body::from_stream(parts()) }))
        .route("/echo", post(|body: Bytes| async move { body }));
    axum::serve(tokio::net::TcpListener::bind(address).await.unwrap(), app).await.unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[1] == "actix" {
        actix_web::rt::System::new().block_on(actix(&arguments[2])).unwrap();
    } else {
        tokio::runtime::Runtime::new().unwrap().block_on(axum_server(&arguments[2]));
    }
}
