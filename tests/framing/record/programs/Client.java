// Requests of Java's two clients to the address in the first argument.
import java.net.*;
import java.net.http.*;
import java.nio.file.*;
import java.io.*;

public class Client {
    static HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static HttpClient offers = HttpClient.newHttpClient();

    static void send(HttpClient by, HttpRequest.Builder request) throws Exception {
        by.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }

    static void old(String url, String method, String body, boolean chunked) throws Exception {
        HttpURLConnection c = (HttpURLConnection) new URL(url).openConnection();
        c.setRequestMethod(method);
        if (body != null) {
            c.setDoOutput(true);
            if (chunked) c.setChunkedStreamingMode(4);
            c.getOutputStream().write(body.getBytes());
        }
        c.getInputStream().readAllBytes();
    }

    public static void main(String[] arguments) throws Exception {
        String base = arguments[0];
        send(client, HttpRequest.newBuilder(URI.create(base + "/java/get?a=b")));
        send(client, HttpRequest.newBuilder(URI.create(base + "/java/post")).POST(HttpRequest.BodyPublishers.ofString("hello")));
        send(client, HttpRequest.newBuilder(URI.create(base + "/java/chunked")).POST(HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream("hello world".getBytes()))));
        send(client, HttpRequest.newBuilder(URI.create(base + "/java/expect")).expectContinue(true).PUT(HttpRequest.BodyPublishers.ofString("hello")));
        send(client, HttpRequest.newBuilder(URI.create(base + "/java/nothing")).POST(HttpRequest.BodyPublishers.noBody()));
        send(client, HttpRequest.newBuilder(URI.create(base + "/java/delete")).DELETE().header("X-A", "b"));
        send(offers, HttpRequest.newBuilder(URI.create(base + "/java/h2c")));
        send(offers, HttpRequest.newBuilder(URI.create(base + "/java/h2c-post")).POST(HttpRequest.BodyPublishers.ofString("hello")));
        old(base + "/java/old/get", "GET", null, false);
        old(base + "/java/old/post", "POST", "hello", false);
        old(base + "/java/old/chunked", "POST", "hello world", true);
        old(base + "/java/old/delete", "DELETE", null, false);
    }
}
