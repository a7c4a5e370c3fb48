import static java.nio.charset.StandardCharsets.UTF_8;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.watch.WatchResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;

/**
 * Watches that outlive etcd, by jetcd (Maven): Survival ENDPOINT PREFIX N. After `watching` it waits for a line of input,
 * while etcd is killed and started again. Prints how many watches then see a put.
 */
public class Survival {
    static ByteSequence bytes(String text) {
        return ByteSequence.from(text, UTF_8);
    }

    static void put(Client client, String key, String value) throws Exception {
        for (int left = 50;; left--) {
            try {
                client.getKVClient().put(bytes(key), bytes(value)).get(5, TimeUnit.SECONDS);
                return;
            } catch (Exception failure) {
                if (left == 0) {
                    throw failure;
                }
                Thread.sleep(200);
            }
        }
    }

    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[2]);
        List<Client> clients = new ArrayList<>();
        Set<String> created = ConcurrentHashMap.newKeySet();
        Set<String> alive = ConcurrentHashMap.newKeySet();
        List<String> keys = new ArrayList<>();
        for (int at = 0; at < count; at++) {
            if (at % 3 == 0) {
                clients.add(Client.builder().endpoints(args[0]).build());
            }
            String key = String.format("%s%03d", args[1], at);
            keys.add(key);
            Client client = clients.get(at / 3);
            client.getWatchClient().watch(bytes(key), Watch.listener((WatchResponse response) -> {
                if (!response.getEvents().isEmpty()) {
                    String value = response.getEvents().get(0).getKeyValue().getValue().toString(UTF_8);
                    (value.equals("plaintext-after") ? alive : created).add(key);
                }
            }, failure -> System.err.println(key + ": " + failure)));
        }
        // Until every watch has seen a value: it has been created then.
        for (int left = 100; left > 0 && created.size() < count; left--) {
            for (String key : keys) {
                if (!created.contains(key)) {
                    put(clients.get(0), key, "plaintext-before");
                }
            }
            Thread.sleep(100);
        }
        System.out.println("watching");
        System.in.read();
        for (String key : keys) {
            put(clients.get(0), key, "plaintext-after");
        }
        for (int left = 75; left > 0 && alive.size() < count; left--) {
            Thread.sleep(200);
        }
        System.out.println("alive " + alive.size());
        System.exit(0);
    }
}
