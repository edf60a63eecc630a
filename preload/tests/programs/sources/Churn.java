// Allocates hard on several threads, in the Java heap and outside it, and prints what it computed.
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.zip.CRC32;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

public class Churn {
    static class Node {
        Node next;
        int[] load;
    }

    // Survivors of several ages among much that dies young.
    static long objects(int seed) {
        long sum = 0;
        Map<Integer, Node> kept = new HashMap<>();
        long state = seed;
        for (int i = 0; i < 150_000; i++) {
            state = state * 6364136223846793005L + 1442695040888963407L;
            int number = (int) (state >>> 40) & 0xffff;
            Node node = new Node();
            node.load = new int[number % 200];
            node.next = kept.get(number % 3000);
            if (node.next != null) node.next.next = null;
            kept.put(number % 3000, node);
            sum += ("" + number + "-" + i).hashCode() & 0xff;
        }
        for (Node node : kept.values()) sum += node.load.length;
        return sum;
    }

    // Memory that the virtual machine takes from malloc: direct buffers, zlib's state.
    static long outside(int seed) throws Exception {
        CRC32 crc = new CRC32();
        for (int round = 0; round < 60; round++) {
            List<ByteBuffer> buffers = new ArrayList<>();
            for (int i = 1; i < 40; i++) {
                ByteBuffer buffer = ByteBuffer.allocateDirect(i * 997);
                while (buffer.hasRemaining()) buffer.put((byte) (seed + i + buffer.position() % 7));
                buffer.flip();
                buffers.add(buffer);
            }
            for (ByteBuffer buffer : buffers) crc.update(buffer);
            byte[] text = ("tide " + seed + " ").repeat(500).getBytes(StandardCharsets.UTF_8);
            Deflater deflater = new Deflater(round % 10);
            deflater.setInput(text);
            deflater.finish();
            byte[] packed = new byte[text.length + 100];
            int length = deflater.deflate(packed);
            deflater.end();
            Inflater inflater = new Inflater();
            inflater.setInput(packed, 0, length);
            byte[] again = new byte[text.length];
            if (inflater.inflate(again) != text.length) throw new AssertionError();
            inflater.end();
            crc.update(again);
        }
        return crc.getValue();
    }

    // The virtual machine finds both by the fault.
    static int depth(int below) {
        return below == 0 ? 0 : 1 + depth(below + 1);
    }

    static String faults() {
        int overflows = 0;
        int nulls = 0;
        for (int i = 0; i < 20; i++) {
            try {
                depth(1);
            } catch (StackOverflowError expected) {
                overflows++;
            }
        }
        Node[] nodes = {new Node(), null};
        for (int i = 0; i < 100_000; i++) {
            try {
                nodes[i & 1].next = nodes[0];
            } catch (NullPointerException expected) {
                nulls++;
            }
        }
        return overflows + " " + nulls;
    }

    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        Map<String, Future<Long>> results = new TreeMap<>();
        for (int i = 0; i < 4; i++) {
            int seed = i;
            results.put("objects " + i, pool.submit((Callable<Long>) () -> objects(seed)));
            results.put("outside " + i, pool.submit((Callable<Long>) () -> outside(seed)));
        }
        for (Map.Entry<String, Future<Long>> result : results.entrySet())
            System.out.println(result.getKey() + " " + result.getValue().get());
        pool.shutdown();
        for (int i = 0; i < 200; i++) {
            Thread thread = new Thread(() -> outsideBriefly());
            thread.start();
            thread.join();
        }
        System.gc();
        System.out.println(faults());
        Process child = new ProcessBuilder("echo", "a child").inheritIO().start();
        System.out.println(child.waitFor());
    }

    static void outsideBriefly() {
        ByteBuffer.allocateDirect(5000).put(3, (byte) 1);
    }
}
