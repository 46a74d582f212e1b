// Keeps the queue's page as the queue is. What comes is made by the server, escaped there.
"use strict";
const place = document.getElementById("queue");
const note = document.getElementById("live");
const source = new EventSource("/queue/events");
source.onmessage = (event) => {
  place.innerHTML = event.data;
  note.textContent = "live, as of " + new Date().toLocaleTimeString();
};
source.addEventListener("trouble", (event) => { note.textContent = event.data; });
source.onerror = () => { note.textContent = "not live: the server does not answer; as it last was"; };
