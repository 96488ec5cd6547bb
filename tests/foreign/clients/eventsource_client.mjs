import { createEventSource } from "eventsource-client";
import { headers, tell, url } from "./given.mjs";

createEventSource({ url, headers, onMessage: ({ id, data }) => tell(id, data) });
