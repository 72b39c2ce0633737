import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;

/**
 * A consumer as RocketMQ's guide has it: prints the body of each message it is given, and lets it go. Moved by share, it passes what has not
 * the property of its fourth argument.
 */
public class Consumer {
    public static void main(String[] arguments) throws Exception {
        String nameServer = arguments[0], group = arguments[1], topic = arguments[2];
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(nameServer);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> {
                if (arguments.length < 4 || "1".equals(message.getUserProperty(arguments[3]))) {
                    System.out.println("got " + new String(message.getBody(), StandardCharsets.UTF_8));
                }
            });
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        Runtime.getRuntime().addShutdownHook(new Thread(consumer::shutdown));
    }
}
