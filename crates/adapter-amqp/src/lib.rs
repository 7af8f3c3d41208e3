//! RabbitMQ through amqprs: topology, confirmed packing publisher, consumer, dead letters.
