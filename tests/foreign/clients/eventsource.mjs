import { EventSource } from "eventsource";
import { headers, tell, url } from "./given.mjs";

const source = new EventSource(url, {
  fetch: (address, options) => fetch(address, { ...options, headers: { ...options.headers, ...headers } }),
});
source.onmessage = ({ lastEventId, data }) => tell(lastEventId, data);
