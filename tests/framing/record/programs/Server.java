// Answers of Java's com.sun.net.httpserver at the port in the first argument.
import com.sun.net.httpserver.*;
import java.net.*;

public class Server {
    static void at(HttpServer server, String path, HttpHandler handler) {
        server.createContext(path, handler);
    }

    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 0);
        at(server, "/text", x -> { x.sendResponseHeaders(200, 6); x.getResponseBody().write("hello\n".getBytes()); x.close(); });
        at(server, "/none", x -> { x.sendResponseHeaders(204, -1); x.close(); });
        at(server, "/stream", x -> {
            x.sendResponseHeaders(200, 0);
            for (int i = 0; i < 3; i++) { x.getResponseBody().write("part\r\n\r\n".getBytes()); x.getResponseBody().flush(); }
            x.close();
        });
        at(server, "/echo", x -> { byte[] b = x.getRequestBody().readAllBytes(); x.sendResponseHeaders(200, b.length); x.getResponseBody().write(b); x.close(); });
        server.start();
    }
}
