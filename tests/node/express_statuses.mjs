// Prints the answers of an Express route that needs its caller's upstream token, as [status, Retry-After].
// Reads its facts from PLACE (JSON).
import express from "express";
import { pathToFileURL } from "node:url";

const place = JSON.parse(process.env.PLACE);
const load = (name) => import(pathToFileURL(`${place.dist}/${name}.js`).href);
const { Vault } = await load("index");
const { upstreamToken } = await load("express");

async function answer(url, scope, authorization) {
  const vault = new Vault(url, { clientId: place.client_id, clientSecret: place.client_secret });
  const app = express();
  app.get("/", upstreamToken(vault, "slack", { scopes: [scope] }), (request, response) => {
    response.json(request.upstreamToken.scopes.length);
  });
  const listening = app.listen(0, "127.0.0.1");
  await new Promise((done) => listening.once("listening", done));
  const headers = authorization === null ? {} : { authorization };
  const said = await fetch(`http://127.0.0.1:${listening.address().port}/`, { headers });
  listening.close();
  listening.closeAllConnections();
  return [said.status, said.headers.get("retry-after")];
}

const scope = "channels:history";
const bearer = `Bearer ${place.subject}`;
const found = {
  "fine": await answer(place.url, scope, bearer),
  "lower case": await answer(place.url, scope, bearer.replace("Bearer", "bearer")),
  "none": await answer(place.url, scope, null),
  "another scheme": await answer(place.url, scope, "Basic eDp4"),
  "no token": await answer(place.url, scope, "Bearer "),
  "a token of nobody": await answer(place.url, scope, "Bearer nobody"),
  "a scope that is not allowed": await answer(place.url, "admin", bearer),
  "later": await answer(place.busy, scope, bearer),
  "broken": await answer(place.broken, scope, bearer),
};
console.log(JSON.stringify(found));
