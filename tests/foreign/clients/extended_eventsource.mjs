import { EventSource } from "extended-eventsource";
import { headers, tell, url } from "./given.mjs";

const source = new EventSource(url, { headers, disableLogger: true });
source.onmessage = ({ lastEventId, data }) => tell(lastEventId, data);
