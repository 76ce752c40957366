#!/usr/bin/node
// Counts visits for one customer, in a file in $DATA_DIR. Node's own modules only.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const file = path.join(process.env.DATA_DIR, 'visits');
let visits = fs.existsSync(file) ? Number(fs.readFileSync(file, 'utf8')) : 0;

// Written beside and renamed, so that a crash leaves the old count or the new one.
function keep(count) {
  fs.writeFileSync(`${file}.new`, String(count));
  fs.renameSync(`${file}.new`, file);
}

const server = http.createServer((request, response) => {
  if (request.url === '/health') {
    response.end('ok\n');
    return;
  }
  visits += 1;
  keep(visits);
  console.log(request.method, request.url, visits);
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ tenant: process.env.TENANT, visits }) + '\n');
});

server.listen(Number(process.env.PORT), process.env.HOST);
process.on('SIGTERM', () => server.close(() => process.exit(0)));
